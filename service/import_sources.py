"""What can be imported: layouts of folders and files, read into rows of one form.

* a CSV or NDJSON file: one picture a row, with `product_id` and `image` (a path relative to the file), and
  optionally `title`, `role`, `label`, `attributes` (a JSON object) and `attributes.NAME` (a text);
* a folder that holds `catalogue.csv` or `catalogue.ndjson`;
* the GroceryStoreDataset, as its repository lays it out;
* a folder per product, with that product's pictures in it; those in a folder `example` below it are examples.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from service.errors import InvalidImportSource
from service.tables import CATALOGUE, EXAMPLE, ROLES

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_UNREAD_IMAGE_ENDINGS = frozenset({".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd"})
_COLUMNS = ("product_id", "image", "title", "role", "label", "attributes")
_COLUMN_ALIASES = {"id": "product_id", "image_path": "image", "path": "image"}
_ATTRIBUTE_PREFIX = "attributes."
_MANIFEST_NAMES = ("catalogue.csv", "catalogue.ndjson", "catalogue.jsonl")
_MAX_ID_LENGTH = 200
_MAX_TITLE_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One picture of one product. What is None is left as it is, or takes its default for a new product."""

    location: str  # where it stands, for messages: "catalogue.csv:12"
    product_id: str
    image: Path
    role: str = CATALOGUE
    title: str | None = None
    label: str | None = None
    attributes: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that was not imported, and why."""

    location: str
    message: str


@dataclass(frozen=True, slots=True)
class ImportSource:
    """Everything that a path offers for import, in a stable order."""

    layout: str
    rows: list[SourceRow]
    errors: list[RowError] = field(default_factory=list)
    num_ignored: int = 0  # files that are no pictures


def read_import_source(path: Path) -> ImportSource:
    """Read the rows that `path` offers; pictures are not opened yet.

    Raises InvalidImportSource when the whole of it cannot be read; a bad row only becomes a RowError.
    """
    if not path.exists():
        raise InvalidImportSource(f"{path} does not exist")
    if path.is_file():
        return _read_manifest(path)
    for name in _MANIFEST_NAMES:
        if (path / name).is_file():
            return _read_manifest(path / name)
    for root in (path, path / "dataset", path / "GroceryStoreDataset" / "dataset"):
        if (root / "classes.csv").is_file() and (root / "train.txt").is_file():
            return _read_grocery(root)
    return _read_folders(path)


def _read_manifest(path: Path) -> ImportSource:
    readers: dict[str, Callable[[Path], Iterator[tuple[int, object]]]] = {
        ".csv": _csv_records,
        ".ndjson": _json_records,
        ".jsonl": _json_records,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InvalidImportSource(f"{path} is neither a folder nor a .csv, .ndjson or .jsonl file")
    rows: list[SourceRow] = []
    errors: list[RowError] = []
    for line_number, record in reader(path):
        location = f"{path.name}:{line_number}"
        try:
            rows.append(_row_of(record, location, path.parent))
        except ValueError as error:
            errors.append(RowError(location, str(error)))
    return ImportSource(path.suffix[1:].upper(), rows, errors)


def _csv_records(path: Path) -> Iterator[tuple[int, object]]:
    # "utf-8-sig": spreadsheets put a byte order mark in front.
    with _as_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        names = [_COLUMN_ALIASES.get(name, name) for name in reader.fieldnames or ()]
        _check_columns(path, names)
        reader.fieldnames = names
        try:
            for record in reader:
                yield reader.line_num, record
        except csv.Error as error:
            raise InvalidImportSource(
                f"{path}, after line {reader.line_num}: {error}; nothing was imported, a quote may not be closed"
            ) from error


def _check_columns(path: Path, names: list[str]) -> None:
    for needed in ("product_id", "image"):
        if needed not in names:
            found = ", ".join(repr(name) for name in names) or "nothing"
            hint = "; columns are parted by commas, not semicolons" if any(";" in name for name in names) else ""
            raise InvalidImportSource(f"{path} has no column {needed!r}; its first line names {found}{hint}")
    if problem := _problem_of_names(names):
        raise InvalidImportSource(f"{path} has {problem}")


def _json_records(path: Path) -> Iterator[tuple[int, object]]:
    with _as_text(path) as file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield line_number, _with_known_names(_parse_json(line))
            except ValueError as error:
                yield line_number, error


def _parse_json(text: str) -> object:
    """Parse strict JSON; raises ValueError for anything that could not be written as JSON again."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("not JSON that is read here: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def _with_known_names(record: object) -> object:
    """Bring the names of a row to those of the columns; raises ValueError for one that would be lost."""
    if not isinstance(record, dict):
        return record
    renamed = [_COLUMN_ALIASES.get(str(name), str(name)) for name in record]
    if problem := _problem_of_names(renamed):
        raise ValueError(f"the row has {problem}")
    return dict(zip(renamed, record.values(), strict=True))


def _problem_of_names(names: list[str]) -> str | None:
    for name in names:
        if name not in _COLUMNS and not name.startswith(_ATTRIBUTE_PREFIX):
            kept = f"{_ATTRIBUTE_PREFIX}{name or 'NAME'} would keep it as an attribute"
            return f"an unknown column {name!r}; columns are {', '.join(_COLUMNS)}, and {kept}"
        if names.count(name) > 1:
            return f"two columns {name!r}"
    return None


def _row_of(record: object, location: str, folder: Path) -> SourceRow:
    """Check one record; raises ValueError with what is wrong."""
    if isinstance(record, ValueError):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, got {_short(record)}")
    if None in record:
        raise ValueError(f"the row has more fields than the first line has columns: {_short(record[None])}")
    image = record.get("image")
    if not isinstance(image, str) or not image.strip():
        raise ValueError("the image is empty; give the path of a picture")
    role = record.get("role") or CATALOGUE
    if role not in ROLES:
        raise ValueError(f"the role is {_short(role)}; it must be {' or '.join(ROLES)}")
    return SourceRow(
        location=location,
        product_id=_product_id(record.get("product_id")),
        image=folder / image.strip(),
        role=str(role),
        title=_optional_text(record, "title", _MAX_TITLE_LENGTH),
        label=_optional_text(record, "label", _MAX_ID_LENGTH),
        attributes=_attributes(record),
    )


def _product_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError("the product_id is empty")
    text = value.strip()
    if len(text) > _MAX_ID_LENGTH:
        raise ValueError(f"the product_id {_short(text)} is longer than {_MAX_ID_LENGTH} characters")
    if not text.isprintable():
        raise ValueError(f"the product_id {_short(text)} holds characters that cannot be printed")
    return text


def _optional_text(record: Mapping[str, object], name: str, max_length: int) -> str | None:
    value = record.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"the {name} must be a text, got {_short(value)}")
    if len(value) > max_length:
        raise ValueError(f"the {name} has {len(value)} characters; at most {max_length} are allowed")
    _check_text(name, value)
    return value


def _check_text(name: str, value: str) -> None:
    """Raise ValueError for a text that no database or JSON document can hold."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the {name} holds half a character that is no text: {value!r}"[:200]) from error
    if "\0" in value:
        raise ValueError(f"the {name} holds a NUL character")


def _attributes(record: Mapping[str, object]) -> Mapping[str, object] | None:
    value = record.get("attributes")
    if isinstance(value, str) and value.strip():
        try:
            value = _parse_json(value)
        except ValueError as error:
            raise ValueError(f"the attributes are {error}: {_short(value)}") from error
    single = {
        name.removeprefix(_ATTRIBUTE_PREFIX): text
        for name, text in record.items()
        if name.startswith(_ATTRIBUTE_PREFIX) and text not in (None, "")
    }
    # Nothing said leaves the attributes as they are; an object that is empty empties them.
    if (value is None or value == "") and not single:
        return None
    attributes = {} if value is None or value == "" else value
    if not isinstance(attributes, dict):
        raise ValueError(f"the attributes must be a JSON object, got {_short(value)}")
    attributes = {**attributes, **single}
    try:
        text = json.dumps(attributes, ensure_ascii=False, allow_nan=False)
    except ValueError as error:  # 1e999 is read as infinity
        raise ValueError(f"the attributes hold a number that is no JSON number: {_short(attributes)}") from error
    _check_text("attributes", text.replace("\\u0000", "\0"))
    return attributes


def _read_grocery(root: Path) -> ImportSource:
    """81 products: the iconic picture is the catalogue's, the photos of train.txt are examples.

    The photos of val.txt and test.txt are never imported, so that they can tell how good a search is.
    """
    products: dict[str, tuple[str, Mapping[str, object]]] = {}
    rows: list[SourceRow] = []
    errors: list[RowError] = []
    with _as_text(root / "classes.csv") as file:
        for record in csv.DictReader(file):
            try:
                name, class_id = record["Class Name (str)"], record["Class ID (int)"].strip()
                attributes: dict[str, object] = {"coarse_class": record["Coarse Class Name (str)"]}
                image = root / record["Iconic Image Path (str)"].lstrip("/")
            except (KeyError, AttributeError) as error:
                raise InvalidImportSource(
                    f"{root / 'classes.csv'} is not the GroceryStoreDataset's: {error}"
                ) from error
            products[class_id] = (name, attributes)
            location = f"classes.csv:{class_id}"
            rows.append(SourceRow(location, name, image, CATALOGUE, name.replace("-", " "), None, attributes))
    with _as_text(root / "train.txt") as file:
        lines = file.read().splitlines()
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        location = f"train.txt:{line_number}"
        image_path, _, class_ids = line.partition(",")
        product = products.get(class_ids.split(",")[0].strip())
        if product is None:
            errors.append(RowError(location, f"unknown class in {_short(line)}"))
        else:
            rows.append(SourceRow(location, product[0], root / image_path.strip(), EXAMPLE))
    return ImportSource("GroceryStoreDataset", rows, errors)


@contextmanager
def _as_text(path: Path) -> Iterator[TextIO]:
    """Open a text file; raises InvalidImportSource when it is in another encoding or cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise InvalidImportSource(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InvalidImportSource(f"{path} cannot be read: {error}") from error


def _read_folders(path: Path) -> ImportSource:
    rows: list[SourceRow] = []
    errors: list[RowError] = []
    num_ignored = 0
    for file in _files_below(path):
        parts = file.relative_to(path).parts
        # Names of old archives may be no text; in messages and reports they are shown escaped.
        location = "/".join(parts).encode("utf-8", "backslashreplace").decode()
        if file.suffix.lower() in _UNREAD_IMAGE_ENDINGS:
            errors.append(RowError(location, f"{file.suffix} pictures are not read; save it as JPEG, PNG or WebP"))
        elif file.suffix.lower() not in IMAGE_ENDINGS:
            num_ignored += 1
        elif len(parts) == 1:
            errors.append(RowError(location, "the picture lies in no product's folder; move it into one"))
        else:
            role = EXAMPLE if parts[1:-1] and parts[1].lower() in ("example", "examples") else CATALOGUE
            try:
                rows.append(SourceRow(location, _product_id(parts[0]), file, role))
            except ValueError as error:
                errors.append(RowError(location, str(error)))
    if not rows:
        raise InvalidImportSource(
            f"{path} has no pictures in folders; expected a folder per product, a catalogue.csv or catalogue.ndjson, "
            "or the GroceryStoreDataset"
        )
    return ImportSource("folder per product", rows, errors, num_ignored)


def _files_below(path: Path) -> list[Path]:
    """Return all files but hidden ones, in a stable order; links to folders are followed, each folder once."""
    files: list[Path] = []
    seen: set[str] = set()
    for directory, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(directory)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            files += [Path(directory) / name for name in sorted(names) if not name.startswith(".")]
        seen.add(real)
    return sorted(files)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
