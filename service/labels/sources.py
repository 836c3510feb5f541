"""Where labels come from: tables of rows, folders per class, and what was sent; read into rows of two kinds.

A row says what an image shows that is in the catalogue already (`Relabel`), or brings a new one (`NewExample`).

* a CSV or NDJSON file, one row each: `image_id`, or `sha256` (with `product_id`), and `label`; or `image`, a path
  relative to the file (in NDJSON also `image_base64`), with `product_id`, `label` or both;
* a folder that holds `labels.csv` or `labels.ndjson`, or the examples of a `catalogue.csv`;
* a folder per class, all of whose images are examples of what its name says.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.catalogue.errors import InvalidImportSource
from service.catalogue.sources import RowError, is_inside, read_import_source, unwrapped, without_folder
from service.labels.errors import InvalidLabels
from service.storage.tables.catalogue import EXAMPLE
from training.datasets.files import IMAGE_ENDINGS, UNREAD_IMAGE_ENDINGS, files_below, location_below, short
from training.datasets.grocery import is_grocery
from training.datasets.manifests import checked_label
from training.datasets.records import Columns, read_records
from training.errors import InvalidDataset

LABEL_TABLES = ("labels.csv", "labels.ndjson", "labels.jsonl")
_CATALOGUE_TABLES = ("catalogue.csv", "catalogue.ndjson", "catalogue.jsonl")
_NAMES = ("image_id", "sha256", "product_id", "label", "image", "labelled_by")
_ALIASES = {"image_path": "image", "path": "image"}
_CSV_COLUMNS = Columns(_NAMES, _ALIASES, (("image_id", "sha256", "image"),), has_attributes=False)
_JSON_COLUMNS = Columns((*_NAMES, "image_base64"), _ALIASES, (), has_attributes=False)
# A line is held in memory; this is an image of 48 MiB as base64.
_MAX_LINE_BYTES = 64 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class NewExample:
    """An image that is new, or may be: of a product, or of whatever has the label."""

    location: str  # where it stands, for messages: "labels.csv:12"
    image: Path | bytes
    product_id: str | None
    label: str | None  # None: not said
    labelled_by: str | None = None


@dataclass(frozen=True, slots=True)
class Relabel:
    """What an image of the catalogue shows, named by its id or by its content."""

    location: str
    image_id: str | None
    sha256: str | None
    product_id: str | None
    label: str | None  # None: that of its product again
    labelled_by: str | None = None


LabelRow = NewExample | Relabel


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Rows of labels in a stable order; they may be read again and again."""

    layout: str
    rows: Iterable[LabelRow | RowError]
    num_rows: int
    num_ignored: int = 0  # files that are no images, and rows that say nothing of labels
    folder: Path | None = None  # where it was unpacked, which messages leave out


def read_label_source(path: Path, *, is_trusted: bool = False, has_images: bool = True) -> LabelSource:
    """Read the rows that a file or folder offers; images are not opened yet, and large files not held in memory.

    What somebody sent (`is_trusted` False) may name no file outside of the folder. A table that came alone
    (`has_images` False) can name none at all. Raises InvalidLabels when the whole of it cannot be read.
    """
    if not path.exists():
        raise InvalidLabels(f"{path} does not exist")
    root = path if path.is_file() or is_trusted else unwrapped(path)
    try:
        return _read(root, is_trusted, has_images)
    except (InvalidDataset, InvalidImportSource, InvalidLabels) as error:
        folder = root.parent if root.is_file() else root
        raise InvalidLabels(without_folder(str(error), None if is_trusted else folder)) from error


def read_label_rows(rows: Sequence[object]) -> LabelSource:
    """Read rows that came as JSON; each that is none becomes a RowError."""
    read = [
        _row_or_error(f"labels[{number}]", row, lambda record, location: _row_of(record, location, None, False))
        for number, row in enumerate(rows)
    ]
    return LabelSource("JSON", read, len(read))


def single_image(image: Path | bytes, *, product_id: str | None, label: str | None) -> LabelSource:
    """Return one image as a source; raises InvalidLabels when nothing says what it shows."""
    location = image.name if isinstance(image, Path) else "image"
    record = {"product_id": product_id, "label": label}
    try:
        row = _new_example(record, location, image)
    except ValueError as error:
        raise InvalidLabels(str(error)) from error
    return LabelSource("image", [row], 1, folder=image.parent if isinstance(image, Path) else None)


def single_label(image_id: str, label: str | None) -> LabelSource:
    """Return the label of one image as a source, None for that of its product again; raises InvalidLabels."""
    try:
        return LabelSource("label", [_relabel({"image_id": image_id, "label": label}, "label")], 1)
    except ValueError as error:
        raise InvalidLabels(str(error)) from error


class _TableRows:
    """The rows of a CSV or NDJSON file, read anew each time."""

    def __init__(self, path: Path, folder: Path | None, is_trusted: bool) -> None:
        self._path = path
        self._folder = folder
        self._is_trusted = is_trusted
        self._columns = _CSV_COLUMNS if path.suffix.lower() == ".csv" else _JSON_COLUMNS

    def __iter__(self) -> Iterator[LabelRow | RowError]:
        for line_number, record in read_records(self._path, self._columns):
            location = f"{self._path.name}:{line_number}"
            if isinstance(record, ValueError):
                yield RowError(location, str(record))
            else:
                yield _row_or_error(location, record, self._row)

    def count(self) -> int:
        """Count the rows; raises InvalidDataset now, before any is used, when the file cannot be read to its end."""
        return sum(1 for _ in read_records(self._path, self._columns))

    def _row(self, record: Mapping[str, object], location: str) -> LabelRow:
        return _row_of(record, location, self._folder, self._is_trusted)


def _read(path: Path, is_trusted: bool, has_images: bool) -> LabelSource:
    if path.is_file():
        return _read_table(path, path.parent if has_images else None, is_trusted)
    for name in LABEL_TABLES:
        if (path / name).is_file():
            return _read_table(path / name, path, is_trusted)
    has_catalogue = any((path / name).is_file() for name in _CATALOGUE_TABLES)
    if has_catalogue or any(is_grocery(root) for root in (path, path / "dataset")):
        return _read_examples(path, is_trusted)
    return _read_classes(path, is_trusted)


def _read_table(path: Path, folder: Path | None, is_trusted: bool) -> LabelSource:
    _check_lines(path)
    rows = _TableRows(path, folder, is_trusted)
    return LabelSource(path.suffix[1:].upper(), rows, rows.count(), folder=None if is_trusted else path.parent)


def _check_lines(path: Path) -> None:
    """Raise InvalidLabels for a line too long to be held in memory, before anybody tries."""
    num_bytes = 0
    line_number = 1
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                _check_line(path, line_number, num_bytes + len(end))
                num_bytes = 0
                line_number += 1
            num_bytes += len(rest)
            _check_line(path, line_number, num_bytes)


def _check_line(path: Path, line_number: int, num_bytes: int) -> None:
    if num_bytes > _MAX_LINE_BYTES:
        raise InvalidLabels(
            f"{path.name}, line {line_number} has more than {_MAX_LINE_BYTES:,} bytes; one row a line, and large "
            "images as files in a zip"
        )


def _read_examples(path: Path, is_trusted: bool) -> LabelSource:
    """Read the examples of a catalogue; its other images are none of labels' business."""
    source = read_import_source(path, is_trusted=is_trusted)
    rows: list[LabelRow | RowError] = [
        NewExample(row.location, row.image, row.product_id, row.label) for row in source.rows if row.role == EXAMPLE
    ]
    num_ignored = source.num_ignored + len(source.rows) - len(rows)
    if not rows and not source.errors:
        raise InvalidLabels(
            f"none of the {len(source.rows):,} rows of the {source.layout} has the role {EXAMPLE}, and labels add no "
            "others; import it as a catalogue, or set the role"
        )
    rows += source.errors
    return LabelSource(f"examples of {source.layout}", rows, len(rows), num_ignored, source.folder)


def _read_classes(path: Path, is_trusted: bool) -> LabelSource:
    rows: list[LabelRow | RowError] = []
    num_ignored = 0
    for file in files_below(path):
        parts = file.relative_to(path).parts
        location = location_below(file, path)
        if file.suffix.lower() in UNREAD_IMAGE_ENDINGS:
            rows.append(RowError(location, f"{file.suffix} images are not read; save it as JPEG, PNG or WebP"))
        elif file.suffix.lower() not in IMAGE_ENDINGS:
            num_ignored += 1
        elif len(parts) == 1:
            rows.append(RowError(location, "the image lies in no class's folder; move it into one"))
        else:
            rows.append(_class_row(location, parts[0], file))
    if not any(isinstance(row, NewExample) for row in rows):
        raise InvalidLabels(
            f"{path} has no images in folders; expected a folder per class, or one of {', '.join(LABEL_TABLES)}"
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
    """Check one record of a table; raises ValueError with what is wrong."""
    names = [_JSON_COLUMNS.known(str(name)) for name in record]
    if problem := _JSON_COLUMNS.problem_of(names):
        raise ValueError(f"the row has {problem}")
    record = dict(zip(names, record.values(), strict=True))
    given = [name for name in ("image_id", "sha256", "image", "image_base64") if record.get(name) not in (None, "")]
    if len(given) != 1:
        found = f"it has {' and '.join(given)}" if given else "it has none of them"
        raise ValueError(f"the row needs one of image_id, sha256, image and image_base64 to say which image; {found}")
    if given[0] == "image":
        return _new_example(record, location, _image_path(record["image"], folder, is_trusted))
    if given[0] == "image_base64":
        return _new_example(record, location, _from_base64(record["image_base64"]))
    return _relabel(record, location)


def _new_example(record: Mapping[str, object], location: str, image: Path | bytes) -> NewExample:
    product_id = _optional(record, "product_id")
    label = _optional(record, "label")
    if product_id is None and label is None:
        raise ValueError("nothing says what the image shows; give a product_id or a label")
    return NewExample(location, image, product_id, label, _optional(record, "labelled_by"))


def _relabel(record: Mapping[str, object], location: str) -> Relabel:
    # Missing, it was forgotten; empty, it is taken back.
    if "label" not in record:
        raise ValueError("the row has no label; give one, or an empty one for that of the product")
    sha256 = _optional(record, "sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"the sha256 {short(sha256)} is none: 64 hexadecimal digits in lower case")
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
            f"the image {short(value)} did not come along; send a zip of the table and its images, or the images "
            "as image_base64 in NDJSON or JSON"
        )
    path = folder / value.strip()
    if not is_trusted and not is_inside(path, folder):
        raise ValueError(f"the image {short(value)} is not in the archive; name one that is")
    return path


def _from_base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"the image_base64 must be text, got {short(value)}")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the image_base64 is not base64: {error}") from error
