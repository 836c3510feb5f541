"""Read a data set of any supported layout."""

from collections.abc import Callable
from pathlib import Path

from training.datasets.cars196 import (
    is_annotated_cars196,
    is_foldered_cars196,
    read_annotated_cars196,
    read_foldered_cars196,
)
from training.datasets.cub import is_cub, read_cub
from training.datasets.files import possible_roots
from training.datasets.folders import read_folders
from training.datasets.grocery import is_grocery, read_grocery
from training.datasets.manifests import MANIFEST_NAMES, read_manifest
from training.datasets.online_products import is_online_products, read_online_products
from training.datasets.rows import Dataset
from training.errors import InvalidDataset

# The first entry that recognises a folder reads it.
_PUBLISHED: tuple[tuple[Callable[[Path], bool], Callable[[Path], Dataset]], ...] = (
    (is_grocery, read_grocery),
    (is_cub, read_cub),
    (is_online_products, read_online_products),
    (is_annotated_cars196, read_annotated_cars196),
    (is_foldered_cars196, read_foldered_cars196),
)


def read_dataset(path: Path) -> Dataset:
    """List the labelled images of `path` with absolute paths; no image is opened.

    Raises InvalidDataset if the data set as a whole cannot be read; a bad row becomes a RowError.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise InvalidDataset(f"{path} does not exist")
    dataset = _read(path)
    if not dataset.images:
        why = f"; {dataset.errors[0].location}: {dataset.errors[0].message}" if dataset.errors else ""
        raise InvalidDataset(f"{path} ({dataset.layout}) holds no usable row{why}")
    return dataset


def _read(path: Path) -> Dataset:
    if path.is_file():
        return read_manifest(path)
    for name in MANIFEST_NAMES:
        if (path / name).is_file():
            return read_manifest(path / name)
    for root in possible_roots(path):
        for is_layout, read in _PUBLISHED:
            if root.is_dir() and is_layout(root):
                return read(root)
    return read_folders(path)
