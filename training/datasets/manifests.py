"""Manifests: CSV, TSV or NDJSON files with one image per row.

`image` is a path relative to the file; `label` is the class, by default the `product_id`; `role` is catalogue (the
default) or example; `split`, also called `part`, is the part stated by the data set. The other columns of a catalogue
(`title`, `attributes`, `attributes.NAME`) are ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from training.datasets.files import printable, short
from training.datasets.identifiers import checked_identifier, table_identifier
from training.datasets.image_paths import image_path_of
from training.datasets.records import Columns, read_records
from training.datasets.rows import Dataset, LabelledImage, Part, Role, RowError
from training.datasets.table_choice import TableKind

_COLUMNS = Columns(
    names=("image", "label", "product_id", "role", "split", "title", "attributes"),
    aliases={"id": "product_id", "image_path": "image", "path": "image", "file_name": "image", "part": "split"},
    needed=(("image",), ("label", "product_id")),
)
MANIFEST = TableKind("labelled images", ("catalogue", "catalog", "manifest"), _COLUMNS)
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


def read_manifest(path: Path) -> Dataset:
    """Read a table; a bad row becomes a RowError and does not stop the others."""
    images: list[LabelledImage] = []
    errors: list[RowError] = []
    records = read_records(path, _COLUMNS)
    for line_number, record in records:
        location = f"{printable(Path(path.name))}:{line_number}"
        try:
            if isinstance(record, ValueError):
                raise record
            images.append(_image_of(record, location, path.parent))
        except ValueError as error:
            errors.append(RowError(location, str(error)))
    return Dataset(f"{path.suffix[1:].upper()} manifest", tuple(images), tuple(errors), records.notes)


def checked_label(value: object, name: str = "label") -> str:
    """Return a label as normalised text; raises ValueError with the reason (see `checked_identifier`)."""
    return checked_identifier(value, name)


def _image_of(record: Mapping[str, object], location: str, folder: Path) -> LabelledImage:
    has_label = record.get("label") not in (None, "")
    # If a row has neither, the message names the column that the file has.
    name = "label" if has_label or "product_id" not in record else "product_id"
    label = table_identifier(record.get(name), name)
    role, part = _role(record), _part(record)
    return LabelledImage(location, image_path_of(record.get("image"), folder, is_trusted=True), label, role, part)


def _role(record: Mapping[str, object]) -> Role:
    value = record.get("role") or "catalogue"
    name = value.strip().lower() if isinstance(value, str) else value
    for role in get_args(Role):
        if name == role:
            return role  # type: ignore[no-any-return]  # get_args() forgets the types of a Literal
    raise ValueError(f"the role is {short(value)}; it must be {' or '.join(get_args(Role))}")


def _part(record: Mapping[str, object]) -> Part:
    value = record.get("split")
    value = "" if value is None else value
    part = PART_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if part is None:
        raise ValueError(f"the split is {short(value)}; it must be train, validation or test")
    return part
