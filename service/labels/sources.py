"""The sources of labels (docs/layouts.md), and the two kinds of rows that they become.

A row sets the label of an image of the catalogue (`Relabel`), or adds a new example (`NewExample`).
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.catalogue.errors import InvalidImportSource
from service.catalogue.rows import CATALOGUE_TABLE, is_empty
from service.catalogue.sources import ImportSource, RowError, is_inside, read_import_source, without_folder
from service.catalogue.unpacking import left_out_of_archive
from service.labels.errors import InvalidLabels
from service.storage.tables.catalogue import EXAMPLE
from training.datasets.files import printable, short
from training.datasets.folders import FolderImages, Layout
from training.datasets.identifiers import table_identifier
from training.datasets.image_paths import image_path_of
from training.datasets.reading import PublishedSource, find_source
from training.datasets.records import Columns, Records, read_records
from training.datasets.rows import LabelledImage, LeftOut
from training.datasets.table_choice import ChosenTable, TableKind
from training.datasets.understanding import counted, plural, understood
from training.errors import InvalidDataset

_COLUMN_NAMES = ("image_id", "sha256", "product_id", "label", "image", "labelled_by")
_ALIASES = {"image_path": "image", "path": "image", "file_name": "image"}
_CSV_COLUMNS = Columns(_COLUMN_NAMES, _ALIASES, (("image_id", "sha256", "image"),), has_attributes=False)
_JSON_COLUMNS = Columns((*_COLUMN_NAMES, "image_base64"), _ALIASES, (), has_attributes=False)
_LABEL_TABLE = TableKind("labels", ("labels", "label"), _CSV_COLUMNS, _JSON_COLUMNS)
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
    num_skipped: int = 0  # rows of a catalogue that are not examples
    understood: str = ""  # one line for the user
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Path | None = None  # of an unpacked archive; removed from messages


def read_label_source(
    path: Path, *, is_trusted: bool = False, has_images: bool = True, layout: Layout = "auto"
) -> LabelSource:
    """Read the rows of a file or folder; images are not opened yet, and tables are read row by row.

    In an upload (`is_trusted` False), rows may not name files outside of the folder; in a table without images
    (`has_images` False), they may not name files at all.

    Raises InvalidLabels if the source as a whole cannot be read; a bad row becomes a RowError.
    """
    folder = path.parent if path.is_file() else path
    try:
        return _read(path, None if is_trusted else folder, has_images, layout)
    except (InvalidDataset, InvalidImportSource, InvalidLabels) as error:
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
    """The rows of a table, which is read again in each iteration."""

    def __init__(self, records: Records, folder: Path | None, is_trusted: bool) -> None:
        self._records = records
        self._folder = folder
        self._is_trusted = is_trusted

    def __iter__(self) -> Iterator[LabelRow | RowError]:
        for line_number, record in self._records:
            location = f"{printable(Path(self._records.path.name))}:{line_number}"
            if isinstance(record, ValueError):
                yield RowError(location, str(record))
            else:
                yield _row_or_error(location, record, self._row)

    def _row(self, record: Mapping[str, object], location: str) -> LabelRow:
        return _row_of(record, location, self._folder, self._is_trusted)


class _FolderRows:
    """The rows of images in folders."""

    def __init__(self, images: FolderImages) -> None:
        self._images = images

    def __iter__(self) -> Iterator[LabelRow | RowError]:
        return map(_class_row, self._images)


def _read(path: Path, folder: Path | None, has_images: bool, layout: Layout) -> LabelSource:
    """Read a source; `folder` is that of an upload, None for a trusted source."""
    # Only a table of labels keeps to `has_images`.
    kinds = (_LABEL_TABLE, CATALOGUE_TABLE) if folder is None or path.is_dir() else (_LABEL_TABLE,)
    source = find_source(path, kinds, layout=layout)
    packed = () if folder is None else left_out_of_archive(folder)
    if isinstance(source, PublishedSource) or (isinstance(source, ChosenTable) and source.kind is CATALOGUE_TABLE):
        return _read_examples(path, source, is_trusted=folder is None)
    if isinstance(source, ChosenTable):
        return _read_table(source, (*packed, *source.left_out), folder, has_images)
    left_out = (*packed, *source.left_out)
    counts = (counted(source.num_classes, "class", plural("class")), counted(len(source), "image"))
    return LabelSource(
        "folder per class",
        _FolderRows(source),
        len(source),
        understood=understood(source.description, counts, left_out, source.num_junk),
        left_out=left_out,
        notes=source.notes,
        folder=folder,
    )


def _read_table(
    table: ChosenTable, left_out: tuple[LeftOut, ...], folder: Path | None, has_images: bool
) -> LabelSource:
    _check_lines(table.path)
    records = read_records(table.path, table.kind.columns_of(table.path))
    # The whole file is read once before any row is used: a damaged file changes nothing.
    num_rows = sum(1 for _ in records)
    return LabelSource(
        table.path.suffix[1:].upper(),
        _TableRows(records, table.path.parent if has_images else None, folder is None),
        num_rows,
        understood=understood(f"the table {printable(Path(table.path.name))}", (counted(num_rows, "row"),), left_out),
        left_out=left_out,
        notes=records.notes,
        folder=folder,
    )


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


def _read_examples(path: Path, found: ChosenTable | PublishedSource, *, is_trusted: bool) -> LabelSource:
    """Read the examples of a catalogue or of a published data set; catalogue images of a catalogue are skipped."""
    source = read_import_source(path, is_trusted=is_trusted)
    has_roles = isinstance(found, ChosenTable) or found.is_grocery
    rows = _Examples(source, has_roles)
    num_examples, num_errors = rows.count()
    if not num_examples and not num_errors:
        raise InvalidLabels(
            f"none of the {source.num_rows:,} rows of the {source.layout} has the role {EXAMPLE}, and only examples "
            "can be added with labels; import it as a catalogue, or set the role"
        )
    num_skipped = source.num_rows - num_examples - num_errors
    return replace(
        LabelSource(f"examples of {source.layout}", rows, num_examples + num_errors, num_skipped),
        understood=f"{source.understood}; only its {counted(num_examples, 'example')}",
        left_out=source.left_out,
        notes=source.notes,
        folder=source.folder,
    )


class _Examples:
    """The examples of an import source."""

    def __init__(self, source: ImportSource, has_roles: bool) -> None:
        self._source = source
        self._has_roles = has_roles

    def __iter__(self) -> Iterator[LabelRow | RowError]:
        for row in self._source.rows:
            if isinstance(row, RowError):
                yield row
            elif not self._has_roles:
                yield NewExample(row.location, row.image, None, row.product_id)
            elif row.role == EXAMPLE:
                yield NewExample(row.location, row.image, row.product_id, row.label)

    def count(self) -> tuple[int, int]:
        """Return the numbers of examples and of errors."""
        num_rows = num_errors = 0
        for row in self:
            num_rows += 1
            num_errors += isinstance(row, RowError)
        return num_rows - num_errors, num_errors


def _class_row(image: LabelledImage) -> LabelRow:
    return NewExample(image.location, image.path, None, image.label)


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
    return None if is_empty(value) else table_identifier(value, name)


def _image_path(value: object, folder: Path | None, is_trusted: bool) -> Path:
    if not isinstance(value, str):
        raise ValueError(f"the image must be a path as text, got {short(value)}")
    if folder is None:
        raise ValueError(
            f"the image {short(value)} was not sent; send a zip archive of the table and its images, or the images "
            "as image_base64 in NDJSON or JSON"
        )
    path = image_path_of(value, folder, is_trusted=is_trusted)
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
