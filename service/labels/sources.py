"""The layouts of labels, and the two kinds of rows that they become.

A row sets the label of an image of the catalogue (`Relabel`), or adds a new example (`NewExample`).

* a CSV or NDJSON file with one row per image: `image_id`, or `sha256` (with `product_id`), and `label`; or `image`, a
  path relative to the file (in NDJSON also `image_base64`), with `product_id`, `label` or both;
* a folder that contains `labels.csv` or `labels.ndjson`, or a `catalogue.csv`, of which the examples are read;
* a folder per class: its images are examples with the folder's name as label.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.catalogue.errors import InvalidImportSource
from service.catalogue.sources import (
    CATALOGUE_TABLES,
    RowError,
    content_root,
    images_in_folders,
    is_inside,
    read_import_source,
    without_folder,
)
from service.labels.errors import InvalidLabels
from service.storage.tables.catalogue import EXAMPLE
from training.datasets.files import short
from training.datasets.grocery import is_grocery
from training.datasets.manifests import checked_label
from training.datasets.records import JSON_ENDINGS, Columns, read_records
from training.errors import InvalidDataset

_LABEL_TABLES = ("labels.csv", "labels.ndjson", "labels.jsonl")
_COLUMN_NAMES = ("image_id", "sha256", "product_id", "label", "image", "labelled_by")
_ALIASES = {"image_path": "image", "path": "image"}
_CSV_COLUMNS = Columns(_COLUMN_NAMES, _ALIASES, (("image_id", "sha256", "image"),), has_attributes=False)
_JSON_COLUMNS = Columns((*_COLUMN_NAMES, "image_base64"), _ALIASES, (), has_attributes=False)
# Each line is read into memory; an image of 48 MiB has this length in base64.
_MAX_LINE_BYTES = 64 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class NewExample:
    """An image to add as an example of a product, which is given by its id or found by the label."""

    location: str  # for messages, such as "labels.csv:12"
    image: Path | bytes
    product_id: str | None
    label: str | None  # None: not given
    labelled_by: str | None = None


@dataclass(frozen=True, slots=True)
class Relabel:
    """The label of an image of the catalogue, which is given by its id or the hash of its bytes."""

    location: str
    image_id: str | None
    sha256: str | None
    product_id: str | None
    label: str | None  # None: the label of its product
    labelled_by: str | None = None


LabelRow = NewExample | Relabel


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Rows of labels in a stable order; `rows` can be iterated more than once."""

    layout: str
    rows: Iterable[LabelRow | RowError]
    num_rows: int
    num_ignored: int = 0  # files that are not images, and rows without labels
    folder: Path | None = None  # of an unpacked archive; removed from messages


def read_label_source(path: Path, *, is_trusted: bool = False, has_images: bool = True) -> LabelSource:
    """Read the rows of a file or folder; images are not opened yet, and tables are read line by line.

    In an upload (`is_trusted` False), rows may not name files outside of the folder; in a table without images
    (`has_images` False), they may not name files at all.

    Raises InvalidLabels if the source as a whole cannot be read; a bad row becomes a RowError.
    """
    if not path.exists():
        raise InvalidLabels(f"{path} does not exist")
    root = path if path.is_file() or is_trusted else content_root(path)
    try:
        return _read(root, is_trusted, has_images)
    except (InvalidDataset, InvalidImportSource, InvalidLabels) as error:
        folder = root.parent if root.is_file() else root
        raise InvalidLabels(without_folder(str(error), None if is_trusted else folder)) from error


def read_label_rows(rows: Sequence[object]) -> LabelSource:
    """Read rows from JSON values; a bad row becomes a RowError."""
    read = [
        _row_or_error(f"labels[{number}]", row, lambda record, location: _row_of(record, location, None, False))
        for number, row in enumerate(rows)
    ]
    return LabelSource("JSON", read, len(read))


def single_image(image: Path | bytes, *, product_id: str | None, label: str | None) -> LabelSource:
    """Return a source with one new example; raises InvalidLabels if neither product nor label is given."""
    location = image.name if isinstance(image, Path) else "image"
    record = {"product_id": product_id, "label": label}
    try:
        row = _new_example(record, location, image)
    except ValueError as error:
        raise InvalidLabels(str(error)) from error
    return LabelSource("image", [row], 1, folder=image.parent if isinstance(image, Path) else None)


def single_label(image_id: str, label: str | None) -> LabelSource:
    """Return a source that sets one label, or restores the label of the product if `label` is None.

    Raises InvalidLabels.
    """
    try:
        return LabelSource("label", [_relabel({"image_id": image_id, "label": label}, "label")], 1)
    except ValueError as error:
        raise InvalidLabels(str(error)) from error


class _TableRows:
    """The rows of a CSV or NDJSON file, which is read again in each iteration."""

    def __init__(self, path: Path, folder: Path | None, is_trusted: bool) -> None:
        self._path = path
        self._folder = folder
        self._is_trusted = is_trusted
        self._columns = _JSON_COLUMNS if path.suffix.lower() in JSON_ENDINGS else _CSV_COLUMNS

    def __iter__(self) -> Iterator[LabelRow | RowError]:
        for line_number, record in read_records(self._path, self._columns):
            location = f"{self._path.name}:{line_number}"
            if isinstance(record, ValueError):
                yield RowError(location, str(record))
            else:
                yield _row_or_error(location, record, self._row)

    def count(self) -> int:
        """Count the rows by reading the whole file; raises InvalidDataset if it cannot be read."""
        return sum(1 for _ in read_records(self._path, self._columns))

    def _row(self, record: Mapping[str, object], location: str) -> LabelRow:
        return _row_of(record, location, self._folder, self._is_trusted)


def _read(path: Path, is_trusted: bool, has_images: bool) -> LabelSource:
    if path.is_file():
        return _read_table(path, path.parent if has_images else None, is_trusted)
    for name in _LABEL_TABLES:
        if (path / name).is_file():
            return _read_table(path / name, path, is_trusted)
    has_catalogue = any((path / name).is_file() for name in CATALOGUE_TABLES)
    if has_catalogue or any(is_grocery(root) for root in (path, path / "dataset")):
        return _read_examples(path, is_trusted)
    return _read_classes(path, is_trusted)


def _read_table(path: Path, folder: Path | None, is_trusted: bool) -> LabelSource:
    _check_lines(path)
    rows = _TableRows(path, folder, is_trusted)
    return LabelSource(path.suffix[1:].upper(), rows, rows.count(), folder=None if is_trusted else path.parent)


def _check_lines(path: Path) -> None:
    """Raise InvalidLabels if a line is too long to be read into memory."""
    num_bytes = 0
    line_number = 1
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            *line_ends, rest = chunk.split(b"\n")
            for line_end in line_ends:
                _check_line(path, line_number, num_bytes + len(line_end))
                num_bytes = 0
                line_number += 1
            num_bytes += len(rest)
            _check_line(path, line_number, num_bytes)


def _check_line(path: Path, line_number: int, num_bytes: int) -> None:
    if num_bytes > _MAX_LINE_BYTES:
        raise InvalidLabels(
            f"{path.name}, line {line_number} has more than {_MAX_LINE_BYTES:,} bytes; write one row per line, "
            "and send large images as files in a zip archive"
        )


def _read_examples(path: Path, is_trusted: bool) -> LabelSource:
    """Read the examples of a catalogue; its catalogue images are ignored."""
    source = read_import_source(path, is_trusted=is_trusted)
    rows: list[LabelRow | RowError] = [
        NewExample(row.location, row.image, row.product_id, row.label) for row in source.rows if row.role == EXAMPLE
    ]
    num_ignored = source.num_ignored + len(source.rows) - len(rows)
    if not rows and not source.errors:
        raise InvalidLabels(
            f"none of the {len(source.rows):,} rows of the {source.layout} has the role {EXAMPLE}, and only examples "
            "can be added with labels; import it as a catalogue, or set the role"
        )
    rows += source.errors
    return LabelSource(f"examples of {source.layout}", rows, len(rows), num_ignored, source.folder)


def _read_classes(path: Path, is_trusted: bool) -> LabelSource:
    images, num_ignored = images_in_folders(path, "class")
    rows: list[LabelRow | RowError] = [
        image if isinstance(image, RowError) else _class_row(image[0], image[1].relative_to(path).parts[0], image[1])
        for image in images
    ]
    if not any(isinstance(row, NewExample) for row in rows):
        raise InvalidLabels(
            f"{path} contains no folders with images; expected a folder per class, or one of {', '.join(_LABEL_TABLES)}"
        )
    return LabelSource("folder per class", rows, len(rows), num_ignored, None if is_trusted else path)


def _class_row(location: str, name: str, file: Path) -> LabelRow | RowError:
    try:
        return _new_example({"label": name}, location, file)
    except ValueError as error:
        return RowError(location, str(error))


def _row_or_error(
    location: str, record: object, read: Callable[[Mapping[str, object], str], LabelRow]
) -> LabelRow | RowError:
    try:
        if not isinstance(record, dict):
            raise ValueError(f"a JSON object is needed, got {short(record)}")
        return read(record, location)
    except ValueError as error:
        return RowError(location, str(error))


def _row_of(record: Mapping[str, object], location: str, folder: Path | None, is_trusted: bool) -> LabelRow:
    """Convert one record of a table; raises ValueError with the reason if it is invalid."""
    names = [_JSON_COLUMNS.known(str(name)) for name in record]
    if problem := _JSON_COLUMNS.problem_of(names):
        raise ValueError(f"the row has {problem}")
    record = dict(zip(names, record.values(), strict=True))
    given = [name for name in ("image_id", "sha256", "image", "image_base64") if record.get(name) not in (None, "")]
    if len(given) != 1:
        found = f"it has {' and '.join(given)}" if given else "it has none of them"
        raise ValueError(f"the row needs exactly one of image_id, sha256, image and image_base64; {found}")
    if given[0] == "image":
        return _new_example(record, location, _image_path(record["image"], folder, is_trusted))
    if given[0] == "image_base64":
        return _new_example(record, location, _from_base64(record["image_base64"]))
    return _relabel(record, location)


def _new_example(record: Mapping[str, object], location: str, image: Path | bytes) -> NewExample:
    product_id = _optional(record, "product_id")
    label = _optional(record, "label")
    if product_id is None and label is None:
        raise ValueError("the image has neither a product_id nor a label; give one of them")
    return NewExample(location, image, product_id, label, _optional(record, "labelled_by"))


def _relabel(record: Mapping[str, object], location: str) -> Relabel:
    # An empty label restores that of the product; a missing one is a mistake.
    if "label" not in record:
        raise ValueError("the row has no label; give one, or an empty one to restore the label of the product")
    sha256 = _optional(record, "sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"the sha256 {short(sha256)} is invalid; it must have 64 hexadecimal digits in lower case")
    return Relabel(
        location=location,
        image_id=_optional(record, "image_id"),
        sha256=sha256,
        product_id=_optional(record, "product_id"),
        label=_optional(record, "label"),
        labelled_by=_optional(record, "labelled_by"),
    )


def _optional(record: Mapping[str, object], name: str) -> str | None:
    value = record.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return checked_label(value, name)


def _image_path(value: object, folder: Path | None, is_trusted: bool) -> Path:
    if not isinstance(value, str):
        raise ValueError(f"the image must be a path as text, got {short(value)}")
    if folder is None:
        raise ValueError(
            f"the image {short(value)} was not sent; send a zip archive of the table and its images, or the images "
            "as image_base64 in NDJSON or JSON"
        )
    path = folder / value.strip()
    if not is_trusted and not is_inside(path, folder):
        raise ValueError(f"the image {short(value)} is not in the archive; name an image that is")
    return path


def _from_base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"the image_base64 must be text, got {short(value)}")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the image_base64 is not base64: {error}") from error
