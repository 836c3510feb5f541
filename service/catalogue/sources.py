"""The sources that an import reads (docs/layouts.md), and the rows that they become."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.catalogue.errors import InvalidImportSource
from service.catalogue.rows import CATALOGUE_TABLE, SourceRow, row_of
from service.catalogue.unpacking import left_out_of_archive
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE
from training.datasets.files import printable, short
from training.datasets.folders import Layout
from training.datasets.grocery import read_grocery_classes, read_grocery_photos
from training.datasets.reading import PublishedSource, find_source
from training.datasets.records import Records, read_records
from training.datasets.rows import LabelledImage, LeftOut, RowError
from training.datasets.table_choice import ChosenTable
from training.datasets.understanding import counted, understood
from training.errors import InvalidDataset

__all__ = [
    "ImportSource",
    "RowError",
    "SourceRow",
    "first_reasons",
    "is_inside",
    "read_import_source",
    "without_folder",
]

_NUM_SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True)
class ImportSource:
    """The rows of a source in a stable order; `rows` can be iterated more than once."""

    layout: str
    rows: Iterable[SourceRow | RowError]
    num_rows: int
    understood: str = ""  # one line for the user
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    folder: Path | None = None  # of an unpacked archive; removed from messages


class Reread:
    """Rows that are read again in each iteration."""

    def __init__(self, read: Callable[[], Iterable[SourceRow | RowError]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[SourceRow | RowError]:
        return iter(self._read())


def read_import_source(path: Path, *, is_trusted: bool = True, layout: Layout = "auto") -> ImportSource:
    """Read the rows of a file or folder; images are not opened yet, and tables are read row by row.

    In an unpacked archive (`is_trusted` False), rows may not name files outside of `path`, and messages do not
    contain `path`.

    Raises InvalidImportSource if the source as a whole cannot be read; a bad row becomes a RowError.
    """
    folder = None if is_trusted else path
    try:
        source = _read(path, folder, layout)
    except InvalidDataset as error:
        # The readers of data sets are shared with training, which has its own error class.
        raise InvalidImportSource(without_folder(str(error), folder)) from error
    if folder is None:
        return source
    return replace(source, rows=Reread(lambda: _confined(source.rows, path)), folder=path)


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


def _confined(rows: Iterable[SourceRow | RowError], folder: Path) -> Iterator[SourceRow | RowError]:
    """Turn rows that name a file outside of the folder, such as /etc/passwd, into errors."""
    for row in rows:
        if isinstance(row, RowError):
            yield RowError(row.location, without_folder(row.message, folder))
        elif is_inside(row.image, folder):
            yield row
        else:
            shown = short(without_folder(str(row.image), folder))
            yield RowError(row.location, f"the image {shown} is not in the archive; name an image that is")


def _read(path: Path, folder: Path | None, layout: Layout) -> ImportSource:
    source = find_source(path, (CATALOGUE_TABLE,), layout=layout, thing="product")
    packed = () if folder is None else left_out_of_archive(folder)
    if isinstance(source, ChosenTable):
        return _read_table(source, (*packed, *source.left_out), is_trusted=folder is None)
    if isinstance(source, PublishedSource):
        return _read_published(source, packed)
    if not len(source) and not source.left_out:
        raise InvalidImportSource(f"{path} contains no images")
    left_out = (*packed, *source.left_out)
    counts = (counted(source.num_classes, "product"), counted(len(source), "image"))
    return ImportSource(
        "folder per product",
        Reread(lambda: map(_row_of_image, source)),
        len(source),
        understood(source.description, counts, left_out, source.num_junk),
        left_out,
        source.notes,
    )


def _read_table(table: ChosenTable, left_out: tuple[LeftOut, ...], *, is_trusted: bool) -> ImportSource:
    records = read_records(table.path, table.kind.columns_of(table.path))
    # The whole file is read once before any row is used: a damaged file changes nothing.
    num_rows = sum(1 for _ in records)
    return ImportSource(
        table.path.suffix[1:].upper(),
        Reread(lambda: _rows_of_table(records, is_trusted)),
        num_rows,
        understood(f"the table {printable(Path(table.path.name))}", (counted(num_rows, "row"),), left_out),
        left_out,
        records.notes,
    )


def _rows_of_table(records: Records, is_trusted: bool) -> Iterator[SourceRow | RowError]:
    for line_number, record in records:
        location = f"{printable(Path(records.path.name))}:{line_number}"
        try:
            if isinstance(record, ValueError):
                raise record
            yield row_of(record, location, records.path.parent, is_trusted)
        except ValueError as error:
            yield RowError(location, str(error))


def _read_published(source: PublishedSource, left_out: tuple[LeftOut, ...]) -> ImportSource:
    notes: tuple[str, ...] = ()
    if source.is_grocery:
        name, rows = "GroceryStoreDataset", list(_rows_of_grocery(source.root))
    else:
        dataset = source.read(source.root)
        name, notes = dataset.layout, dataset.notes
        rows = [*map(_row_of_image, dataset.images), *dataset.errors]
    usable = [row for row in rows if isinstance(row, SourceRow)]
    counts = (counted(len({row.product_id for row in usable}), "product"), counted(len(usable), "image"))
    return ImportSource(name, rows, len(rows), understood(name, counts, left_out), left_out, notes)


def _row_of_image(image: LabelledImage) -> SourceRow:
    return SourceRow(image.location, image.label, image.path, EXAMPLE if image.role == "example" else CATALOGUE)


def _rows_of_grocery(root: Path) -> Iterator[SourceRow | RowError]:
    """Yield 81 products: iconic images as catalogue images, the photos of train.txt as examples.

    The photos of val.txt and test.txt are not imported: they are the queries that measure search quality.
    """
    classes = read_grocery_classes(root)
    for item in classes:
        attributes = {"coarse_class": item.coarse_name}
        title = item.name.replace("-", " ")
        yield SourceRow(
            f"classes.csv:{item.class_id}", item.name, item.iconic_image, CATALOGUE, title, None, attributes
        )
    for location, photo in read_grocery_photos(root, "train.txt", classes):
        if isinstance(photo, ValueError):
            yield RowError(location, str(photo))
        else:
            yield SourceRow(location, photo[0].name, photo[1], EXAMPLE)
