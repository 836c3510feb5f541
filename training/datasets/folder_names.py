"""Names of folders that are no name of a product: views, parts of a data set, and names that say nothing."""

import re

from training.datasets.manifests import PART_NAMES
from training.datasets.rows import Part

_VIEWS = frozenset(
    {
        "front", "back", "rear", "side", "sides", "left", "right", "top", "bottom", "detail", "details", "inside",
        "outside", "main", "gallery", "zoom", "closeup", "close-up", "close-ups", "closeups", "original", "originals",
        "orig", "small", "medium", "large", "thumb", "thumbs", "thumbnail", "thumbnails", "360", "packshot",
        "packshots", "lifestyle", "studio", "raw", "web", "old", "new", "backup", "archive", "view", "views",
    }
)  # fmt: skip
_GENERIC = frozenset(
    {
        "image", "images", "img", "imgs", "photo", "photos", "pic", "pics", "picture", "pictures", "pix", "media",
        "upload", "uploads", "file", "files", "asset", "assets", "data", "dataset", "jpg", "jpeg", "jpegs", "png",
        "bild", "bilder", "foto", "fotos", "imagen", "imagenes", "immagini",
    }
)  # fmt: skip
_NUMBERED = re.compile(r"(?:(?:view|angle|shot|frame|side|image|img|photo|picture|pic|foto|bild)s?[-_ ]?)?\d{1,2}")


def is_view(name: str) -> bool:
    """Tell whether a folder inside of a product's folder has the name of a view, or one that says nothing."""
    name = name.casefold()
    return name in _VIEWS or name in _GENERIC or _NUMBERED.fullmatch(name) is not None


def is_generic(name: str) -> bool:
    """Tell whether a folder's name only says that there are images in it."""
    return name.casefold() in _GENERIC


def part_of(name: str) -> Part:
    """Return the part of a data set that a folder's name states, or ""."""
    return PART_NAMES.get(name.casefold(), "")
