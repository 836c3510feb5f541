"""Files of a data set: image extensions, directory listings in a stable order, and text files.

The module has no heavy imports, since importing a catalogue uses it too.
"""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from training.errors import InvalidDataset

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_EXAMPLE_FOLDERS = frozenset({"example", "examples"})
# The most nested single folders that an unpacked archive may put around a data set.
MAX_ENCLOSING_FOLDERS = 3


def files_below(path: Path) -> list[Path]:
    """Return all files except hidden ones, in a stable order; follows links to folders, each folder once."""
    files: list[Path] = []
    seen: set[str] = set()
    for directory, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(directory)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            files += [Path(directory) / name for name in sorted(names) if not name.startswith(".")]
        seen.add(real)
    return sorted(files)


def folders_in(path: Path) -> list[Path]:
    """Return the folders directly in `path` except hidden ones, in a stable order."""
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InvalidDataset(f"{path} cannot be read: {error}") from error


def location_below(path: Path, root: Path) -> str:
    """Return the path of a file relative to `root`, for messages."""
    return printable(path.relative_to(root))


def printable(path: Path) -> str:
    """Return a path as text; bytes that are not UTF-8 are escaped."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def first_example_folder(parts: tuple[str, ...]) -> int | None:
    """Return the index of the folder named "example" among an image's folders; the first is always a class."""
    return next((i for i, name in enumerate(parts) if i > 0 and name.lower() in _EXAMPLE_FOLDERS), None)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file; raises InvalidDataset if it has another encoding or cannot be read."""
    try:
        # "utf-8-sig": spreadsheets write a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise InvalidDataset(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InvalidDataset(f"{path} cannot be read: {error}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a text file, skipping blank lines."""
    with open_text(path) as file:
        lines = file.read().splitlines()
    for line_number, line in enumerate(lines, start=1):
        if line.strip():
            yield line_number, line


def short(value: object) -> str:
    """Return the repr of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
