"""Zip archives from strangers: looked through before anything is written, and counted while it is.

An archive may lie about all it says. So names that lead out of the folder, links, devices, sizes, and how much a few
bytes unpack to are checked in its directory first; the bytes that really come out are counted again while unpacking.
Whatever goes wrong, nothing remains.
"""

import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath

from service.catalogue.errors import InvalidArchive
from training.datasets.files import IMAGE_ENDINGS

MAX_ENTRIES = 200_000
MAX_RATIO = 100.0

_MAX_NAME_BYTES = 1024
_MAX_PART_BYTES = 255
# Below this size no ratio does harm: a table or an image of one colour may shrink to almost nothing.
_HARMLESS_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
_DIRECTORY_ENTRY = b"PK\x01\x02"
_MAX_DIRECTORY_BYTES = 128 * 2**20
_JUNK = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"})
_NESTED_ENDINGS = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
# How other archives and files begin, to say what came instead.
_BEGINNINGS = {
    b"\x1f\x8b": "a gzip (.tar.gz) archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
}
_PACK = "pack the folder as a zip: zip -r NAME.zip FOLDER"
# Not all that cannot be printed: some systems put odd spaces into names of their own.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ENCRYPTED_FLAGS = 0x0001 | 0x0040 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile raises over bytes that are no sound archive.
_DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, struct.error, ValueError, KeyError, IndexError,
    OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive held: `num_files` lie in the folder now, `ignored` were left out (nested archives, junk)."""

    num_files: int
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the archive that passed all checks that need no unpacking."""

    info: zipfile.ZipInfo
    path: PurePosixPath


def check(archive: Path, *, max_bytes: int, max_entries: int = MAX_ENTRIES, max_ratio: float = MAX_RATIO) -> int:
    """Return how many files an archive unpacks to, after all checks that need no unpacking; raises InvalidArchive."""
    with _opened(archive, max_entries) as opened:
        return len(_entries(opened, archive.stat().st_size, max_bytes, max_ratio)[0])


def unpack(
    archive: Path,
    into: Path,
    *,
    max_bytes: int,
    max_entries: int = MAX_ENTRIES,
    max_image_bytes: int | None = None,
    max_ratio: float = MAX_RATIO,
) -> Unpacked:
    """Unpack an archive into the new folder `into`, whole or not at all.

    An image of more than `max_image_bytes` is not unpacked: an empty file of its length stands for it, so that who
    reads it refuses it by its length like any other. Nested archives, and what systems add unasked, are left out.

    Raises InvalidArchive that names the entry and a remedy; then `into` is gone. A full disk raises OSError.
    """
    with _opened(archive, max_entries) as opened:
        entries, ignored = _entries(opened, archive.stat().st_size, max_bytes, max_ratio)
        into.mkdir(parents=True)
        try:
            for entry in entries:
                is_refused = (
                    max_image_bytes is not None
                    and entry.info.file_size > max_image_bytes
                    and entry.path.suffix.lower() in IMAGE_ENDINGS
                )
                _unpack_entry(opened, entry, into, is_placeholder=is_refused)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise
    return Unpacked(len(entries), tuple(ignored))


class _GuardedFile(BufferedReader):
    """A file that gives zipfile no directory too large to be held in memory.

    zipfile reads the whole directory at once and makes an object of each entry before anybody can count them.
    """

    def __init__(self, path: Path, max_entries: int) -> None:
        super().__init__(FileIO(path))
        self.max_entries: int | None = max_entries  # None: the directory was read

    def read(self, size: int | None = -1, /) -> bytes:
        if self.max_entries is None:
            return super().read(size)
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise InvalidArchive(f"the archive's directory claims {size:,} bytes; split the archive into smaller ones")
        content = super().read(size)
        # Each entry begins with these bytes, so there are at most as many as they occur.
        if content.count(_DIRECTORY_ENTRY) > self.max_entries:
            raise InvalidArchive(f"the archive has more than {self.max_entries:,} entries; split it into smaller ones")
        return content


@contextmanager
def _opened(archive: Path, max_entries: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive; what zipfile says over damaged bytes becomes InvalidArchive."""
    with _GuardedFile(archive, max_entries) as file:
        try:
            opened = zipfile.ZipFile(file)
        except (*_DAMAGE, OSError) as error:
            raise InvalidArchive(_not_a_zip(archive, error)) from error
        file.max_entries = None
        with opened:
            yield opened


def _not_a_zip(archive: Path, error: Exception) -> str:
    with archive.open("rb") as file:
        beginning = file.read(8)
    if beginning.startswith(b"PK"):
        return f"the archive is damaged or was cut off: {error}; pack and send it again"
    other = next((name for start, name in _BEGINNINGS.items() if beginning.startswith(start)), "no archive")
    return f"the file is {other}, and only zip is read; {_PACK}"


def _entries(
    opened: zipfile.ZipFile, archive_bytes: int, max_bytes: int, max_ratio: float
) -> tuple[list[_Entry], list[str]]:
    """Return the files to unpack and the names of those left out, after all checks; raises InvalidArchive."""
    entries: list[_Entry] = []
    ignored: list[str] = []
    paths: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    num_bytes = num_compressed = 0
    for info in opened.infolist():
        path = _checked_path(info)
        _check_kind(info)
        if info.is_dir():
            folders.update((path, *path.parents))
            continue
        num_bytes += info.file_size
        num_compressed += info.compress_size
        if num_bytes > max_bytes:
            raise InvalidArchive(f"the archive unpacks to more than {max_bytes:,} bytes; split it into smaller ones")
        _check_ratio(_shown(info), info.file_size, info.compress_size, max_ratio)
        if path in paths:
            raise InvalidArchive(f"the archive holds {_shown(info)} twice; remove one and pack it again")
        paths.add(path)
        folders.update(path.parents)
        if _is_left_out(path):
            ignored.append(path.as_posix())
        else:
            entries.append(_Entry(info, path))
    if mixed := sorted(paths & folders):
        raise InvalidArchive(f"the archive holds {mixed[0].as_posix()!r} as a file and as a folder; pack it again")
    # Entries that share their bytes make many of a few.
    if num_compressed > archive_bytes:
        raise InvalidArchive("entries of the archive overlap; no honest program writes that: pack it again")
    _check_ratio("the archive as a whole", num_bytes, archive_bytes, max_ratio)
    return entries, ignored


def _checked_path(info: zipfile.ZipInfo) -> PurePosixPath:
    """Return where an entry goes, below the folder; raises InvalidArchive for one that would lead out of it."""
    name = info.orig_filename
    problem = None
    # Not by what this system takes for a path: an archive is refused on all for what one would be led astray by.
    if "\0" in name:
        problem = "has a NUL in its name"
    elif not (info.filename and PurePosixPath(name).parts) and not name.endswith("/"):
        problem = "has no name"
    elif "\\" in name:
        problem = "has a backslash in its name"
    elif name.startswith("/") or re.match("[A-Za-z]:", name):
        problem = "has an absolute name"
    elif ".." in name.split("/"):
        problem = 'leads out of the archive by ".."'
    elif len(_as_bytes(name)) > _MAX_NAME_BYTES or any(len(_as_bytes(x)) > _MAX_PART_BYTES for x in name.split("/")):
        problem = f"has a name of more than {_MAX_PART_BYTES} bytes, or of {_MAX_NAME_BYTES} with its folders"
    elif _CONTROL.search(name):
        problem = "has control characters in its name"
    if problem:
        raise InvalidArchive(f"the entry {_shown(info)} {problem}; rename it, and pack it again with a zip program")
    return PurePosixPath(name)


def _check_kind(info: zipfile.ZipInfo) -> None:
    """Raise InvalidArchive for what is neither a plain file nor a folder, and for what cannot be read here."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise InvalidArchive(f"the entry {_shown(info)} is a link; pack the files themselves (zip without --symlinks)")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidArchive(f"the entry {_shown(info)} is a device or a pipe; remove it and pack the archive again")
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise InvalidArchive(f"the entry {_shown(info)} is encrypted; pack the archive without a password")
    # bzip2 and LZMA give as many bytes as they like for a few, whatever one asks for.
    if info.compress_type not in _METHODS:
        raise InvalidArchive(
            f"the entry {_shown(info)} is compressed by method {info.compress_type}; pack it with deflate: zip -r"
        )
    if info.file_size < 0 or info.compress_size < 0:
        raise InvalidArchive(f"the entry {_shown(info)} has a negative size; {_PACK}")


def _check_ratio(what: str, num_bytes: int, num_compressed: int, max_ratio: float) -> None:
    if num_bytes > _HARMLESS_BYTES and num_bytes > max_ratio * num_compressed:
        raise InvalidArchive(
            f"{what} unpacks {num_compressed:,} bytes to {num_bytes:,}, more than {max_ratio:g} times as many, as only "
            "archives do that are to do harm; pack images as they are"
        )


def _is_left_out(path: PurePosixPath) -> bool:
    is_hidden = any(part in _JUNK or part.startswith("._") for part in path.parts)
    return is_hidden or path.suffix.lower() in _NESTED_ENDINGS


def _unpack_entry(opened: zipfile.ZipFile, entry: _Entry, into: Path, *, is_placeholder: bool) -> None:
    path = into / entry.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": on a disk where names differ in more than their case only, two may be one.
        file = path.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidArchive(
            f"the entry {_shown(entry.info)} has the name of another, but for its case; rename one of them"
        ) from error
    with file:
        if is_placeholder:
            file.truncate(entry.info.file_size)
            return
        num_bytes = 0
        for chunk in _content_of(opened, entry.info):
            num_bytes += len(chunk)
            if num_bytes > entry.info.file_size:
                raise InvalidArchive(f"the entry {_shown(entry.info)} holds more than it declares; pack it again")
            file.write(chunk)
    if num_bytes != entry.info.file_size:
        raise InvalidArchive(f"the entry {_shown(entry.info)} holds less than it declares; pack it again")


def _content_of(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of an entry; zipfile checks them against their checksum at the end."""
    try:
        with opened.open(info) as content:
            while chunk := content.read(_CHUNK_BYTES):
                yield chunk
    except (*_DAMAGE, OSError) as error:
        raise InvalidArchive(f"the entry {_shown(info)} is damaged: {error}; pack and send it again") from error


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _shown(info: zipfile.ZipInfo) -> str:
    """Name an entry in a message: on one line, and not longer than that."""
    text = ascii(info.orig_filename) if not info.orig_filename.isprintable() else repr(info.orig_filename)
    return text if len(text) <= 120 else f"{text[:117]}..."
