"""The file that an image column names: paths as people, Windows and macOS write them.

A name is taken as it stands first. Only if there is no such file, other spellings of the same path are tried:
backslashes, a leading slash, percent-encoding, and the normal forms of Unicode. A similar name is never taken, only
shown.
"""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from training.datasets.files import short

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# Windows copies paths with quotes, and with a mark of direction before them.
_ENDS = "\"'\ufeff\u200b\u200e\u202a\u202c"
_MAX_CHARACTERS = 4096  # of a path on Linux
_MAX_LISTED = 20_000
# Similar names are searched in small folders, and for the first missing files only: each search reads all names.
_MAX_COMPARED = 500
_MIN_COMPARED = 4  # letters: shorter names resemble any other
_MAX_SEARCHES = 5
_MAX_FOLDERS = 50


def image_path_of(value: object, folder: Path, *, is_trusted: bool = False) -> Path:
    """Return the existing file that `value` names, relative to the folder of its table.

    Unless `is_trusted`, a value that leads out of `folder` is refused whether or not such a file exists; links are
    not resolved, so that a caller whose folder may contain some checks the returned path again.

    Raises ValueError, with the reason and a hint, for all other values.
    """
    text = _text_of(value)
    path = folder / text
    if (is_trusted or not _leads_out(text)) and _is_file(path):
        return path
    _check_form(text)
    spellings = list(dict.fromkeys(_spellings(text)))
    inside = [spelling for spelling in spellings if not _leads_out(spelling)]
    for spelling in spellings if is_trusted else inside:
        path = folder / spelling
        if _is_file(path):
            return path
    if not inside:
        if not is_trusted:
            raise ValueError(f"the image {short(text)} is not in the archive; name an image that is")
        raise ValueError(f"the image {short(text)} does not exist; paths are relative to the folder of the table")
    # The last spelling has all replacements.
    found, similar = _resolved(folder, PurePosixPath(inside[-1]).parts)
    if found is not None and _is_file(found):
        return found
    kind = "is a folder, not an image" if found is not None and found.is_dir() else "does not exist"
    looked_for = "" if inside[-1] == text else f" as {short(inside[-1])}"
    hint = f"{short(similar)} exists, so correct the path" if similar else "correct the path, or add the file"
    raise ValueError(
        f"the image {short(text)} {kind}; it was looked for{looked_for} in the folder of the table; {hint}"
    )


def _text_of(value: object) -> str:
    """Return a value as text without spaces around it; raises ValueError if it is empty or can be no path."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("the image is empty; give the path of an image")
    if not isinstance(value, str):
        raise ValueError(f"the image must be a path as text, got {short(value)}; give the path of an image")
    if len(value) > _MAX_CHARACTERS:
        raise ValueError(f"the image {short(value)} is not a valid path: it has {len(value):,} characters")
    try:
        name = os.fsencode(value)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the image {short(value)} is not a valid path: it contains a lone surrogate, which is not text"
        ) from error
    if b"\0" in name:
        raise ValueError(f"the image {short(value)} is not a valid path: it contains a NUL character")
    return value.strip()


def _check_form(text: str) -> None:
    """Raise ValueError for a value that is no path of this machine."""
    plain = text.strip(_ENDS)
    if plain.lower().startswith("file:"):
        raise ValueError(
            f"the image {short(text)} is an address of a file; give its path relative to the folder of the table, "
            "such as images/1.jpg"
        )
    if plain.startswith("//") or _ADDRESS.match(plain):
        raise ValueError(
            f"the image {short(text)} is a URL, and images are not downloaded; download it into the folder of the "
            "table, and give the path of the file"
        )
    if plain.startswith("data:"):
        raise ValueError(f"the image {short(text)} is data, not a path; save it as a file, and give the file's path")
    if _WINDOWS_PATH.match(plain):
        raise ValueError(
            f"the image {short(text)} is an absolute path of Windows; give it relative to the folder of the table, "
            "such as images/1.jpg"
        )


def _spellings(text: str) -> Iterator[str]:
    """Yield other spellings of a path, each with the replacements of those before it."""
    spelling = text
    for replaced in (
        lambda path: path.strip(_ENDS),
        lambda path: path.replace("\\", "/"),
        lambda path: path.lstrip("/"),
        unquote,
    ):
        spelling = replaced(spelling)
        yield unicodedata.normalize("NFD", spelling)
        yield unicodedata.normalize("NFC", spelling)
        yield spelling


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or contains a NUL character
        return False


def _leads_out(text: str) -> bool:
    """Return whether a path is absolute, or leaves the folder at some point."""
    depth = 0
    for part in text.replace("\\", "/").split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return text.startswith(("/", "\\"))


def _resolved(folder: Path, parts: tuple[str, ...]) -> tuple[Path | None, str]:
    """Return the path with these parts in any normal forms, or None and a similar path that exists."""
    path = folder
    for number, part in enumerate(parts):
        if part == ".." or os.path.lexists(path / part):
            path /= part
            continue
        try:
            names = _names_in(str(path), path.stat().st_mtime_ns)
        except (OSError, ValueError):
            return None, ""
        same = names.by_normal_form.get(unicodedata.normalize("NFC", part))
        if same is None:
            similar = names.similar_to(part, is_last=number == len(parts) - 1)
            return None, (path / similar).relative_to(folder).as_posix() if similar else ""
        path /= same
    return path, ""


class _Names:
    """The names in a folder, up to a number."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._num_searches = 0
        self._folders: list[str] = []
        self.by_normal_form: dict[str, str] = {}
        self._by_letters: dict[str, str] = {}
        with os.scandir(directory) as entries:
            for entry in islice(entries, _MAX_LISTED):
                self.by_normal_form[unicodedata.normalize("NFC", entry.name)] = entry.name
                self._by_letters.setdefault(_letters(entry.name), entry.name)
                if len(self._folders) < _MAX_FOLDERS and entry.is_dir():
                    self._folders.append(entry.name)

    def similar_to(self, name: str, *, is_last: bool) -> str | None:
        """Return an existing path below the folder that may be meant."""
        letters = _letters(name)
        if letters and (found := self._by_letters.get(letters)):
            return found
        if self._num_searches == _MAX_SEARCHES:
            return None
        self._num_searches += 1
        if is_last:
            for folder in self._folders:
                if _is_file(Path(self._directory, folder, name)):
                    return f"{folder}/{name}"
        if len(letters) < _MIN_COMPARED or len(self.by_normal_form) > _MAX_COMPARED:
            return None
        close = difflib.get_close_matches(name[:255], self.by_normal_form, n=1, cutoff=0.8)
        return self.by_normal_form[close[0]] if close else None


# The time of the last change is an argument, so that a folder that has changed is read again.
@lru_cache(maxsize=16)
def _names_in(directory: str, _modified_ns: int) -> _Names:
    return _Names(directory)


def _letters(name: str) -> str:
    """Return the letters and digits of a name without its ending, in lower case."""
    stem = PurePosixPath(name).stem
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", stem).casefold())
