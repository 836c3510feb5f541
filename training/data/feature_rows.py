"""Feature rows in the files of a feature store: where each view's row is, and reading rows without loading the files.

Shape legend: N contents (distinct files of images), V views, R rows, C channels.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

log = logging.getLogger(__name__)

FEATURES_NAME = "features"
_MISSING = -1
_ROW_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows [R, C] that stay in their files; reading them takes no memory beyond the result.

    Read with pread and not memory-mapped, since the mapped pages would count as memory of the process.
    """

    paths: Sequence[Path]
    part_of: NDArray[np.int32]  # [R] the file of each row; -1: a row of zeros
    row_of: NDArray[np.int32]  # [R] its row in the file
    num_channels: int

    def __len__(self) -> int:
        return len(self.part_of)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the rows at these positions [n, C]; raises OSError if a file is gone."""
        taken = np.zeros((len(rows), self.num_channels), _ROW_DTYPE)
        parts = self.part_of[rows]
        order = np.argsort(parts, kind="stable")
        # One group of positions for each file, which is opened once.
        starts = np.flatnonzero(np.diff(parts[order], prepend=_MISSING - 1))
        for places in np.split(order, starts[1:]):
            if len(places) and (part := int(parts[places[0]])) != _MISSING:
                self._read(self.paths[part], rows[places], taken, places)
        return torch.from_numpy(taken)

    def _read(self, path: Path, rows: NDArray[np.int64], taken: NDArray[np.float32], places: NDArray[np.int64]) -> None:
        num_bytes = self.num_channels * _ROW_DTYPE.itemsize
        try:
            with path.open("rb", buffering=0) as file:
                # A safetensors file is the length of its header, the header and the data of its tensors, here one.
                start = 8 + int.from_bytes(os.pread(file.fileno(), 8, 0), "little")
                for row, place in zip(self.row_of[rows].tolist(), places.tolist(), strict=True):
                    if os.preadv(file.fileno(), [taken[place].data], start + row * num_bytes) != num_bytes:
                        raise OSError("it is shorter than it was")
        except OSError as error:
            raise OSError(f"the features in {path} can no longer be read: {error}; start again") from error


class RowTable:
    """Where the views of each content are stored: a file and a row, or nowhere yet."""

    def __init__(self, contents: Sequence[str], views: Sequence[int]) -> None:
        self._number_of = {sha256: number for number, sha256 in enumerate(contents)}
        self._column_of = {view: column for column, view in enumerate(sorted(set(views)))}
        shape = (len(self._number_of), len(self._column_of))
        self.paths: list[Path] = []
        self._parts_NV = np.full(shape, _MISSING, np.int32)
        self._rows_NV = np.zeros(shape, np.int32)

    def scan(self, directory: Path) -> None:
        """Find the stored rows; an unreadable file is removed, to be computed again."""
        self.paths = []
        self._parts_NV.fill(_MISSING)
        for path in sorted(directory.glob("part-*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    keys = json.loads(file.metadata()["keys"])
                self._note(keys)
            except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("the features in %s are damaged and will be computed again: %s", path, error)
                path.unlink()
                continue
            self.paths.append(path)

    def _note(self, keys: Sequence[str]) -> None:
        found = []
        for row, key in enumerate(keys):
            sha256, _, view = key.partition("/")
            number, column = self._number_of.get(sha256), self._column_of.get(int(view))
            if number is not None and column is not None:
                found.append((number, column, row))
        if found:
            numbers, columns, rows = np.array(found).T
            self._parts_NV[numbers, columns] = len(self.paths)
            self._rows_NV[numbers, columns] = rows

    def lacking(self, sha256: str, views: Sequence[int]) -> list[int]:
        """Return the views of a content that are not stored."""
        parts = self._parts_NV[self._number_of[sha256]]
        return [view for view in views if parts[self._column_of[view]] == _MISSING]

    def rows_of(
        self, contents: Sequence[str], views_of: Sequence[Sequence[int]], offsets: NDArray[np.int64], num_channels: int
    ) -> StoredRows:
        """Return the rows of the views of each image, in order; views that are not stored become zeros."""
        part_of = np.empty(int(offsets[-1]), np.int32)
        row_of = np.empty(int(offsets[-1]), np.int32)
        columns_of = {views: [self._column_of[view] for view in views] for views in set(map(tuple, views_of))}
        for position, (sha256, views) in enumerate(zip(contents, views_of, strict=True)):
            place, number = slice(offsets[position], offsets[position + 1]), self._number_of[sha256]
            columns = columns_of[tuple(views)]
            part_of[place], row_of[place] = self._parts_NV[number, columns], self._rows_NV[number, columns]
        return StoredRows(self.paths, part_of, row_of, num_channels)


def load_rows(stored: StoredRows) -> Tensor:
    """Read all rows into memory [R, C], each file once."""
    loaded = torch.zeros(len(stored), stored.num_channels)
    order = np.argsort(stored.part_of, kind="stable")
    starts = np.searchsorted(stored.part_of[order], np.arange(len(stored.paths) + 1))
    for part, path in enumerate(stored.paths):
        targets = order[starts[part] : starts[part + 1]]
        if len(targets):
            with safe_open(path, "pt") as file:
                loaded[targets] = file.get_tensor(FEATURES_NAME)[stored.row_of[targets]]
    return loaded
