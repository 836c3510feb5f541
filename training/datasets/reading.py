"""Read a source of any supported layout: the one decision of imports, labels and training what a path is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.datasets.cars196 import (
    is_annotated_cars196,
    is_foldered_cars196,
    read_annotated_cars196,
    read_foldered_cars196,
)
from training.datasets.cub import is_cub, read_cub
from training.datasets.folders import FolderImages, Layout, read_folders
from training.datasets.grocery import is_grocery, read_grocery
from training.datasets.manifests import MANIFEST, read_manifest
from training.datasets.online_products import is_online_products, read_online_products
from training.datasets.rows import Dataset, LeftOut, RowError
from training.datasets.table_choice import ChosenTable, TableKind, choose_table, possible_roots, table_at
from training.datasets.understanding import counted, first_left_out, plural, understood
from training.errors import InvalidDataset


@dataclass(frozen=True, slots=True)
class PublishedSource:
    """A data set in the layout in which it was published."""

    root: Path
    is_grocery: bool
    read: Callable[[Path], Dataset]


Source = ChosenTable | PublishedSource | FolderImages

# The first entry that recognises a folder reads it.
_PUBLISHED: tuple[tuple[Callable[[Path], bool], Callable[[Path], Dataset]], ...] = (
    (is_grocery, read_grocery),
    (is_cub, read_cub),
    (is_online_products, read_online_products),
    (is_annotated_cars196, read_annotated_cars196),
    (is_foldered_cars196, read_foldered_cars196),
)


def find_source(path: Path, kinds: Sequence[TableKind], *, layout: Layout = "auto", thing: str = "class") -> Source:
    """Find out what a path is; no image is opened.

    In this order: a table with a name of one of `kinds`; the files of a published data set; the only table; folders
    of images, where `thing` is what a folder stands for. A `layout` other than "auto" states that folders are read.

    Raises InvalidDataset if the source cannot be read, or if it allows two readings.
    """
    if not path.exists():
        raise InvalidDataset(f"{path} does not exist")
    if path.is_file():
        return table_at(path, kinds)
    if layout != "auto":
        return read_folders(path, kinds, layout=layout, thing=thing)
    roots = possible_roots(path)
    for root in roots:
        if table := choose_table(root, kinds, only_named=True):
            return table
    if published := _published_in(roots):
        return published
    for root in roots:
        if table := choose_table(root, kinds):
            return table
    return read_folders(path, kinds, thing=thing)


def read_dataset(path: Path, *, layout: Layout = "auto") -> Dataset:
    """List the labelled images of `path` with absolute paths; no image is opened.

    Raises InvalidDataset if the data set as a whole cannot be read; a bad row becomes a RowError, as does a file that
    is left out and may be an image.
    """
    path = path.expanduser().absolute()
    source = find_source(path, (MANIFEST,), layout=layout)
    left_out: Sequence[LeftOut] = ()
    num_junk = 0
    if isinstance(source, ChosenTable):
        dataset, left_out = read_manifest(source.path), source.left_out
        what = f"the table {source.path.name}"
    elif isinstance(source, PublishedSource):
        dataset = source.read(source.root)
        what = dataset.layout
    else:
        dataset, left_out, num_junk = _dataset_of(source), source.left_out, source.num_junk
        what = source.description
    if not dataset.images:
        why = f"; {dataset.errors[0].location}: {dataset.errors[0].message}" if dataset.errors else ""
        raise InvalidDataset(f"{path} ({dataset.layout}) holds no usable row{why}")
    counts = (
        counted(len({image.label for image in dataset.images}), "class", plural("class")),
        counted(len(dataset.images), "image"),
    )
    line = understood(what, counts, left_out, num_junk)
    failures = tuple(RowError(item.location, item.reason) for item in left_out if item.is_failure)
    others = [item for item in left_out if not item.is_failure]
    notes = (*dataset.notes, *((f"left out: {first_left_out(others)}",) if others else ()))
    return replace(dataset, errors=(*dataset.errors, *failures), notes=notes, understood=line)


def _published_in(roots: Sequence[Path]) -> PublishedSource | None:
    # The repository of GroceryStoreDataset has its files in a folder beside others.
    places = [place for root in roots for place in (root, root / "dataset", root / "GroceryStoreDataset" / "dataset")]
    for place in filter(Path.is_dir, dict.fromkeys(places)):
        for is_layout, read in _PUBLISHED:
            if is_layout(place):
                return PublishedSource(place, is_layout is is_grocery, read)
    return None


def _dataset_of(source: FolderImages) -> Dataset:
    return Dataset("folder per class", tuple(source), (), source.notes)
