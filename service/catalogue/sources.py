"""The layouts that an import reads, and the rows that they become.

* a CSV or NDJSON file: one image per row, with `product_id` and `image` (a path relative to the file), and
  optionally `title`, `role`, `label`, `attributes` (a JSON object) and `attributes.NAME` (text);
* a folder that contains `catalogue.csv` or `catalogue.ndjson`;
* the GroceryStoreDataset, in the layout of its repository;
* a folder per product with its images; those in a subfolder `example` are examples.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.catalogue.errors import InvalidImportSource
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE, ROLES
from training.datasets.files import (
    IMAGE_ENDINGS,
    MAX_ENCLOSING_FOLDERS,
    UNREAD_IMAGE_ENDINGS,
    files_below,
    first_example_folder,
    location_below,
    short,
)
from training.datasets.grocery import is_grocery, read_grocery_classes, read_grocery_photos
from training.datasets.records import ATTRIBUTE_PREFIX, RECORD_ENDINGS, Columns, parse_json, read_records
from training.errors import InvalidDataset

_COLUMNS = Columns(
    names=("product_id", "image", "title", "role", "label", "attributes"),
    aliases={"id": "product_id", "image_path": "image", "path": "image"},
    needed=(("product_id",), ("image",)),
)
CATALOGUE_TABLES = ("catalogue.csv", "catalogue.ndjson", "catalogue.jsonl")
# The lengths of the database columns: of ids, labels, names of people and sources; and of titles.
MAX_TEXT_LENGTH = 200
MAX_TITLE_LENGTH = 1000
_NUM_SHOWN_REASONS = 3


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


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be used, and the reason."""

    location: str
    message: str


@dataclass(frozen=True, slots=True)
class ImportSource:
    """The rows of a source, in a stable order."""

    layout: str
    rows: list[SourceRow]
    errors: list[RowError] = field(default_factory=list)
    num_ignored: int = 0  # files that are not images
    folder: Path | None = None  # of an unpacked archive; removed from messages


def read_import_source(path: Path, *, is_trusted: bool = True) -> ImportSource:
    """Read the rows of a file or folder; images are not opened yet.

    In an unpacked archive (`is_trusted` False), rows may not name files outside of `path`, enclosing folders are
    skipped, and messages do not contain `path`.

    Raises InvalidImportSource if the source as a whole cannot be read; a bad row becomes a RowError.
    """
    if not path.exists():
        raise InvalidImportSource(f"{path} does not exist")
    root = path if is_trusted else content_root(path)
    try:
        source = _read(root)
    except (InvalidDataset, InvalidImportSource) as error:
        # The readers of data sets are shared with training, which has its own error class.
        raise InvalidImportSource(without_folder(str(error), None if is_trusted else root)) from error
    return source if is_trusted else _confined(source, root)


def content_root(path: Path) -> Path:
    """Return the folder with the content of an unpacked archive, below folders that only enclose it.

    A single folder with images is a product's folder, not an enclosing one.
    """
    for _ in range(MAX_ENCLOSING_FOLDERS):
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        if len(entries) != 1 or not entries[0].is_dir():
            break
        inner = [entry for entry in entries[0].iterdir() if not entry.name.startswith(".")]
        files = [entry for entry in inner if not entry.is_dir()]
        has_table = any(file.suffix.lower() in RECORD_ENDINGS for file in files)
        has_images = any(file.suffix.lower() in IMAGE_ENDINGS | UNREAD_IMAGE_ENDINGS for file in files)
        has_folders = any(first_example_folder(("", entry.name)) is None for entry in inner if entry.is_dir())
        if not has_table and (has_images or not has_folders):
            break
        path = entries[0]
    return path


def images_in_folders(path: Path, owner: str) -> tuple[list[tuple[str, Path] | RowError], int]:
    """Return (location, file) of the images in the folders of `path`, or the error, and the number of other files.

    `owner` is what each folder stands for, such as "product".
    """
    images: list[tuple[str, Path] | RowError] = []
    num_ignored = 0
    for file in files_below(path):
        location = location_below(file, path)
        ending = file.suffix.lower()
        if ending in UNREAD_IMAGE_ENDINGS:
            images.append(RowError(location, f"{file.suffix} images are not supported; save it as JPEG, PNG or WebP"))
        elif ending not in IMAGE_ENDINGS:
            num_ignored += 1
        elif file.parent == path:
            images.append(RowError(location, f"the image is not in the folder of a {owner}; move it into one"))
        else:
            images.append((location, file))
    return images, num_ignored


def without_folder(text: str, folder: Path | None) -> str:
    """Remove the path of a folder from a message: clients do not know where their upload was unpacked."""
    return text if folder is None else text.replace(f"{folder}/", "").replace(str(folder), "the archive")


def first_reasons(errors: Sequence[RowError], num_errors: int) -> str:
    """Describe the first of `num_errors` errors in one line."""
    shown = "; ".join(f"{error.location}: {error.message}" for error in errors[:_NUM_SHOWN_REASONS])
    return f"{shown}; and {num_errors - _NUM_SHOWN_REASONS:,} more" if num_errors > _NUM_SHOWN_REASONS else shown


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path, with links resolved, is inside a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def _confined(source: ImportSource, folder: Path) -> ImportSource:
    """Turn rows that name a file outside of the folder, such as /etc/passwd, into errors."""
    rows: list[SourceRow] = []
    errors = [RowError(error.location, without_folder(error.message, folder)) for error in source.errors]
    for row in source.rows:
        if is_inside(row.image, folder):
            rows.append(row)
        else:
            shown = short(without_folder(str(row.image), folder))
            errors.append(RowError(row.location, f"the image {shown} is not in the archive; name an image that is"))
    return replace(source, rows=rows, errors=errors, folder=folder)


def _read(path: Path) -> ImportSource:
    if path.is_file():
        return _read_manifest(path)
    for name in CATALOGUE_TABLES:
        if (path / name).is_file():
            return _read_manifest(path / name)
    for root in (path, path / "dataset", path / "GroceryStoreDataset" / "dataset"):
        if is_grocery(root):
            return _read_grocery(root)
    return _read_folders(path)


def _read_manifest(path: Path) -> ImportSource:
    rows: list[SourceRow] = []
    errors: list[RowError] = []
    for line_number, record in read_records(path, _COLUMNS):
        location = f"{path.name}:{line_number}"
        try:
            if isinstance(record, ValueError):
                raise record
            rows.append(_row_of(record, location, path.parent))
        except ValueError as error:
            errors.append(RowError(location, str(error)))
    return ImportSource(path.suffix[1:].upper(), rows, errors)


def _row_of(record: Mapping[str, object], location: str, folder: Path) -> SourceRow:
    """Convert one record; raises ValueError with the reason if it is invalid."""
    image = record.get("image")
    if not isinstance(image, str) or not image.strip():
        raise ValueError("the image is empty; give the path of an image")
    role = record.get("role") or CATALOGUE
    if role not in ROLES:
        raise ValueError(f"the role is {short(role)}; it must be {' or '.join(ROLES)}")
    return SourceRow(
        location=location,
        product_id=_product_id(record.get("product_id")),
        image=folder / image.strip(),
        role=str(role),
        title=_optional_text(record, "title", MAX_TITLE_LENGTH),
        label=_optional_text(record, "label", MAX_TEXT_LENGTH),
        attributes=_attributes(record),
    )


def _product_id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError("the product_id is empty")
    text = value.strip()
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"the product_id {short(text)} is longer than {MAX_TEXT_LENGTH} characters")
    if not text.isprintable():
        raise ValueError(f"the product_id {short(text)} contains unprintable characters")
    return text


def _optional_text(record: Mapping[str, object], name: str, max_length: int) -> str | None:
    value = record.get(name)
    if value is None or value == "":
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


def _read_grocery(root: Path) -> ImportSource:
    """Read 81 products: iconic images as catalogue images, the photos of train.txt as examples.

    The photos of val.txt and test.txt are not imported: they are the queries that measure search quality.
    """
    classes = read_grocery_classes(root)
    rows: list[SourceRow] = []
    errors: list[RowError] = []
    for item in classes:
        attributes = {"coarse_class": item.coarse_name}
        title = item.name.replace("-", " ")
        rows.append(
            SourceRow(f"classes.csv:{item.class_id}", item.name, item.iconic_image, CATALOGUE, title, None, attributes)
        )
    for location, photo in read_grocery_photos(root, "train.txt", classes):
        if isinstance(photo, ValueError):
            errors.append(RowError(location, str(photo)))
        else:
            rows.append(SourceRow(location, photo[0].name, photo[1], EXAMPLE))
    return ImportSource("GroceryStoreDataset", rows, errors)


def _read_folders(path: Path) -> ImportSource:
    rows: list[SourceRow] = []
    errors: list[RowError] = []
    images, num_ignored = images_in_folders(path, "product")
    for image in images:
        if isinstance(image, RowError):
            errors.append(image)
            continue
        location, file = image
        folders = file.relative_to(path).parts[:-1]
        role = EXAMPLE if first_example_folder(folders) == 1 else CATALOGUE
        try:
            rows.append(SourceRow(location, _product_id(folders[0]), file, role))
        except ValueError as error:
            errors.append(RowError(location, str(error)))
    if not rows:
        raise InvalidImportSource(
            f"{path} contains no folders with images; expected a folder per product, a catalogue.csv or "
            "catalogue.ndjson, or the GroceryStoreDataset"
        )
    return ImportSource("folder per product", rows, errors, num_ignored)
