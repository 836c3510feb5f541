"""Manifests: CSV or NDJSON files with one image per row.

`image` is a path relative to the file; `label` is the class, by default the `product_id`; `role` is catalogue (the
default) or example; `split`, also called `part`, is the part stated by the data set. The other columns of a catalogue
(`title`, `attributes`, `attributes.NAME`) are ignored.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from training.datasets.files import printable, short
from training.datasets.records import Columns, read_records
from training.datasets.rows import Dataset, LabelledImage, Part, Role, RowError

MANIFEST_NAMES = tuple(
    f"{name}.{ending}" for name in ("catalogue", "manifest") for ending in ("csv", "ndjson", "jsonl")
)
_COLUMNS = Columns(
    names=("image", "label", "product_id", "role", "split", "title", "attributes"),
    aliases={"id": "product_id", "image_path": "image", "path": "image", "part": "split"},
    needed=(("image",), ("label", "product_id")),
)
# Names of parts, in the column `split` and as folders around the class folders.
PART_NAMES: Mapping[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "": "",
}
_MAX_LABEL_LENGTH = 200


def read_manifest(path: Path) -> Dataset:
    """Read a .csv, .ndjson or .jsonl file; a bad row becomes a RowError and does not stop the others."""
    images: list[LabelledImage] = []
    errors: list[RowError] = []
    for line_number, record in read_records(path, _COLUMNS):
        location = f"{printable(Path(path.name))}:{line_number}"
        try:
            if isinstance(record, ValueError):
                raise record
            images.append(_image_of(record, location, path.parent))
        except ValueError as error:
            errors.append(RowError(location, str(error)))
    return Dataset(f"{path.suffix[1:].upper()} manifest", tuple(images), tuple(errors))


def checked_label(value: object, name: str = "label") -> str:
    """Return a label as text; raises ValueError unless it is text or an integer."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"the {name} is empty; give the image's class as text or an integer")
    if not isinstance(value, str):
        raise ValueError(f"the {name} must be text or an integer, got {short(value)}")
    label = value.strip()
    if len(label) > _MAX_LABEL_LENGTH:
        raise ValueError(f"the {name} {short(label)} is longer than {_MAX_LABEL_LENGTH} characters")
    if not label.isprintable():
        raise ValueError(f"the {name} {short(label)} holds characters that cannot be printed")
    return label


def _image_of(record: Mapping[str, object], location: str, folder: Path) -> LabelledImage:
    image = record.get("image")
    if not isinstance(image, str) or not image.strip():
        raise ValueError("the image is empty; give the path of an image")
    _check_path(image)
    has_label = record.get("label") not in (None, "")
    # If a row has neither, the message names the column that the file has.
    name = "label" if has_label or "product_id" not in record else "product_id"
    label = checked_label(record.get(name), name)
    return LabelledImage(location, folder / image.strip(), label, _role(record), _part(record))


def _check_path(image: str) -> None:
    try:
        name = os.fsencode(image)
    except UnicodeEncodeError as error:
        raise ValueError(f"the image {short(image)} is not a valid path: {error.reason}") from error
    if b"\0" in name:
        raise ValueError(f"the image {short(image)} is not a valid path: it contains a NUL character")


def _role(record: Mapping[str, object]) -> Role:
    value = record.get("role") or "catalogue"
    for role in get_args(Role):
        if value == role:
            return role  # type: ignore[no-any-return]  # get_args() forgets the types of a Literal
    raise ValueError(f"the role is {short(value)}; it must be {' or '.join(get_args(Role))}")


def _part(record: Mapping[str, object]) -> Part:
    value = record.get("split")
    value = "" if value is None else value
    part = PART_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if part is None:
        raise ValueError(f"the split is {short(value)}; it must be train, validation or test")
    return part
