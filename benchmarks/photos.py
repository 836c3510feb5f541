"""The images that benchmarks measure with: photos below a folder, or drawn ones."""

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image

from service.demo.sample.products import sample_products
from service.demo.sample.views import photo_view

_ENDINGS = (".jpg", ".jpeg")


def add_photos_option(parser: argparse.ArgumentParser) -> None:
    """Add `--photos`."""
    parser.add_argument(
        "--photos", type=Path, help="a folder with JPEG photos, searched at any depth; default: drawn ones"
    )


def photos(folder: Path | None, count: int) -> list[bytes]:
    """Return up to `count` different photos, spread evenly over the files below a folder, or as many drawn ones."""
    return drawn_photos(count) if folder is None else photos_below(folder, count)


def drawn_photos(count: int) -> list[bytes]:
    """Return JPEG images of about half a megapixel, like those sent by phones."""
    encoded = []
    for product in sample_products(count, seed=0):
        buffer = BytesIO()
        photo_view(product, 0).resize((800, 600), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
        encoded.append(buffer.getvalue())
    return encoded


def photos_below(folder: Path, count: int) -> list[bytes]:
    """Return up to `count` different photos that are spread evenly over the files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    if not paths:
        raise SystemExit(f"{folder} has no JPEG files")
    chosen = [paths[number * len(paths) // count] for number in range(count)] if len(paths) > count else paths
    return list(dict.fromkeys(path.read_bytes() for path in chosen))
