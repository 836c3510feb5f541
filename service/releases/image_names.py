"""The names of the images that the hits of a release show, as a sorted file that is searched without being read.

images.names holds one entry of 40 bytes per image: the 32 bytes of its SHA-256 digest, and its file extension in ASCII,
padded with zeros. Entries are distinct and ascending.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.storage.media import MediaName

FILE_NAME = "images.names"
_ENTRY = np.dtype("S40")
_DIGEST_BYTES = 32


class ImageNames:
    """Answers whether hits show an image, by binary search."""

    def __init__(self, entries: NDArray[np.bytes_]) -> None:
        self.entries = entries

    @classmethod
    def open(cls, path: Path) -> "ImageNames":
        """Memory-map a file."""
        is_empty = path.stat().st_size == 0  # which cannot be mapped
        return cls(np.empty(0, _ENTRY) if is_empty else np.memmap(path, _ENTRY, mode="r"))

    @classmethod
    def of(cls, names: Iterable[Iterable[str]], *, check: Callable[[], None] = lambda: None) -> "ImageNames":
        """Sort the names of images, which come in pieces; `check` is called after each piece."""
        found = [np.empty(0, _ENTRY)]
        for piece in names:
            found.append(np.unique(np.array([_entry(name) for name in piece], _ENTRY)))
            check()
        return cls(np.unique(np.concatenate(found)))

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_bytes(self.entries.tobytes())

    def __contains__(self, name: MediaName) -> bool:
        entry = np.array(_entry(str(name)), _ENTRY)
        position = int(np.searchsorted(self.entries, entry))
        return position < len(self.entries) and bool(self.entries[position] == entry)

    def __len__(self) -> int:
        return len(self.entries)


def _entry(name: str) -> bytes:
    digest, _, extension = name.partition(".")
    entry = bytes.fromhex(digest) + extension.encode("ascii")
    assert _DIGEST_BYTES < len(entry) <= _ENTRY.itemsize
    return entry
