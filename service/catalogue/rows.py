"""Rows of an import: one image of one product each, and how a record of a table becomes one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.storage.tables.catalogue import CATALOGUE, ROLES
from training.datasets.files import short
from training.datasets.identifiers import table_identifier
from training.datasets.image_paths import image_path_of
from training.datasets.records import ATTRIBUTE_PREFIX, Columns, parse_json
from training.datasets.table_choice import TableKind

# The lengths of the database columns: of ids, labels, names of people and sources; and of titles.
MAX_TEXT_LENGTH = 200
MAX_TITLE_LENGTH = 1000

CATALOGUE_TABLE = TableKind(
    name="a catalogue",
    stems=("catalogue", "catalog"),
    columns=Columns(
        names=("product_id", "image", "title", "role", "label", "attributes"),
        aliases={"id": "product_id", "image_path": "image", "path": "image", "file_name": "image"},
        needed=(("product_id",), ("image",)),
    ),
)


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One image of one product. A field that is None keeps its value, or takes the default in a new row."""

    location: str  # for messages, such as "catalogue.csv:12"
    product_id: str
    image: Path
    role: str = CATALOGUE
    title: str | None = None
    label: str | None = None
    attributes: Mapping[str, object] | None = None


def row_of(record: Mapping[str, object], location: str, folder: Path, is_trusted: bool) -> SourceRow:
    """Convert one record of a table in `folder`; raises ValueError with the reason if it is invalid."""
    value = record.get("role") or CATALOGUE
    role = value.strip().lower() if isinstance(value, str) else value
    if role not in ROLES:
        raise ValueError(f"the role is {short(value)}; it must be {' or '.join(ROLES)}")
    product_id = table_identifier(record.get("product_id"), "product_id", max_length=MAX_TEXT_LENGTH)
    return SourceRow(
        location=location,
        product_id=product_id,
        role=str(role),
        title=_optional_text(record, "title", MAX_TITLE_LENGTH),
        label=None if is_empty(record.get("label")) else table_identifier(record["label"], "label"),
        attributes=_attributes(record),
        # Last, since it looks at the disk.
        image=image_path_of(record.get("image"), folder, is_trusted=is_trusted),
    )


def is_empty(value: object) -> bool:
    """Return whether a field has no value."""
    return value is None or (isinstance(value, str) and not value.strip())


def _optional_text(record: Mapping[str, object], name: str, max_length: int) -> str | None:
    value = record.get(name)
    if is_empty(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"the {name} must be text, got {short(value)}")
    if len(value) > max_length:
        raise ValueError(f"the {name} has {len(value)} characters; at most {max_length} are allowed")
    _check_text(name, value)
    return value


def _check_text(name: str, value: str) -> None:
    """Raise ValueError for text that cannot be stored in a database or in JSON."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"there is a lone surrogate in the {name}, which is not valid text: {value!r}"[:200]
        ) from error
    if "\0" in value:
        raise ValueError(f"there is a NUL character in the {name}")


def _attributes(record: Mapping[str, object]) -> Mapping[str, object] | None:
    value = record.get("attributes")
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ValueError(f"the attributes are {error}: {short(value)}") from error
    single = {
        name.removeprefix(ATTRIBUTE_PREFIX): text
        for name, text in record.items()
        if name.startswith(ATTRIBUTE_PREFIX) and text not in (None, "")
    }
    # A missing value keeps the attributes; an empty object removes them.
    if (value is None or value == "") and not single:
        return None
    attributes = {} if value is None or value == "" else value
    if not isinstance(attributes, dict):
        raise ValueError(f"the attributes must be a JSON object, got {short(value)}")
    attributes = {**attributes, **single}
    try:
        text = json.dumps(attributes, ensure_ascii=False, allow_nan=False)
    except ValueError as error:  # json.loads reads 1e999 as infinity
        raise ValueError(f"the attributes contain a number that JSON cannot represent: {short(attributes)}") from error
    _check_text("attributes", text.replace("\\u0000", "\0"))
    return attributes
