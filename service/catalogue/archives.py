"""Untrusted zip archives: checked before anything is written, and again while unpacking.

The archive's directory is checked first: paths out of the folder, links, devices, sizes and compression ratios. As
the directory may be wrong, the unpacked bytes are counted as well. After any failure nothing is left on the disk.
"""

import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath

from service.catalogue.archive_names import (
    check_same_path,
    checked_path,
    entry_name,
    is_junk_entry,
    shown,
    undecodable_name_reason,
)
from service.catalogue.errors import InvalidArchive
from training.datasets.records import TABLE_ENDINGS

MAX_ENTRIES = 200_000
MAX_RATIO = 100.0

# Smaller files may have any compression ratio: a table or an image of one colour compresses to almost nothing.
_MAX_UNCHECKED_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
_DIRECTORY_ENTRY = b"PK\x01\x02"
_MAX_DIRECTORY_BYTES = 128 * 2**20
# The part of a file that is too large for an image that is written, to tell what it is.
_HEAD_BYTES = 64 * 1024
_NESTED_ENDINGS = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
REASON_NESTED = "an archive in the archive is not unpacked; unpack it, and pack its files"
# The first bytes of other formats, for error messages.
_SIGNATURES = {
    b"\x1f\x8b": "a gzip (.tar.gz) archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
}
_HOW_TO_PACK = "pack the folder as a zip archive: zip -r NAME.zip FOLDER"
_ENCRYPTED_FLAGS = 0x0001 | 0x0040 | 0x2000
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile raises for a damaged archive.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, struct.error, ValueError, KeyError, IndexError,
    OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The number of unpacked files, and what was left out with the reason; junk is one line of it."""

    num_files: int
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the archive that passed the checks of the directory."""

    info: zipfile.ZipInfo
    path: PurePosixPath


def check(archive: Path, *, max_bytes: int, max_entries: int = MAX_ENTRIES, max_ratio: float = MAX_RATIO) -> int:
    """Check the directory of an archive and return the number of files to unpack; raises InvalidArchive."""
    with _open_archive(archive, max_entries) as opened:
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
    """Unpack an archive into the new folder `into`, completely or not at all.

    Of a file of more than `max_image_bytes` that is no table, only the beginning is written, and a hole up to its
    length: its reader then refuses it by its length. Nested archives and junk are left out.

    Raises InvalidArchive, which names the entry and a remedy, and OSError if the disk is full; `into` is removed.
    """
    with _open_archive(archive, max_entries) as opened:
        entries, left_out = _entries(opened, archive.stat().st_size, max_bytes, max_ratio)
        into.mkdir(parents=True)
        try:
            for entry in entries:
                is_too_large = (
                    max_image_bytes is not None
                    and entry.info.file_size > max_image_bytes
                    and entry.path.suffix.lower() not in TABLE_ENDINGS
                )
                _unpack_entry(opened, entry, into, is_only_head=is_too_large)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise
    return Unpacked(len(entries), tuple(left_out))


class _GuardedFile(BufferedReader):
    """A file that refuses to read an archive's directory that is too large for memory.

    zipfile reads the whole directory at once and creates an object per entry before the entries can be counted.
    """

    def __init__(self, path: Path, max_entries: int) -> None:
        super().__init__(FileIO(path))
        self.max_entries: int | None = max_entries  # None after the directory was read

    def read(self, size: int | None = -1, /) -> bytes:
        if self.max_entries is None:
            return super().read(size)
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise InvalidArchive(f"the archive's directory has {size:,} bytes; split the archive into smaller ones")
        content = super().read(size)
        # Each entry begins with this signature, so the number of occurrences is an upper bound.
        if content.count(_DIRECTORY_ENTRY) > self.max_entries:
            raise InvalidArchive(f"the archive has more than {self.max_entries:,} entries; split it into smaller ones")
        return content


@contextmanager
def _open_archive(archive: Path, max_entries: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive; raises InvalidArchive if it is damaged."""
    with _GuardedFile(archive, max_entries) as file:
        try:
            opened = zipfile.ZipFile(file)
        except (*_DAMAGE_ERRORS, OSError) as error:
            raise InvalidArchive(_reason_unreadable(archive, error)) from error
        file.max_entries = None
        with opened:
            yield opened


def _reason_unreadable(archive: Path, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return undecodable_name_reason(error)
    with archive.open("rb") as file:
        first_bytes = file.read(8)
    if first_bytes.startswith(b"PK"):
        return "the archive is damaged or truncated; pack and send it again"
    found = next((name for start, name in _SIGNATURES.items() if first_bytes.startswith(start)), "not an archive")
    return f"the file is {found}; only zip archives are supported: {_HOW_TO_PACK}"


def _entries(
    opened: zipfile.ZipFile, archive_bytes: int, max_bytes: int, max_ratio: float
) -> tuple[list[_Entry], list[tuple[str, str]]]:
    """Check the directory; return the files to unpack, and what is left out with reasons. Raises InvalidArchive."""
    entries: list[_Entry] = []
    junk: list[str] = []
    nested: list[tuple[str, str]] = []
    paths: dict[PurePosixPath, zipfile.ZipInfo] = {}
    folders: set[PurePosixPath] = set()
    num_bytes = num_compressed = 0
    for info in opened.infolist():
        if is_junk_entry(info):
            junk.append(shown(info))
            continue
        path = checked_path(info)
        _check_kind(info)
        if _is_folder(info):
            folders.update((path, *path.parents))
            continue
        num_bytes += info.file_size
        num_compressed += info.compress_size
        if num_bytes > max_bytes:
            raise InvalidArchive(f"the archive unpacks to more than {max_bytes:,} bytes; split it into smaller ones")
        _check_ratio(shown(info), info.file_size, info.compress_size, max_ratio)
        if path in paths:
            check_same_path(paths[path], info)
        paths[path] = info
        folders.update(path.parents)
        if path.suffix.lower() in _NESTED_ENDINGS:
            nested.append((path.as_posix(), REASON_NESTED))
        else:
            entries.append(_Entry(info, path))
    if mixed := sorted(paths.keys() & folders):
        raise InvalidArchive(f"the archive contains {mixed[0].as_posix()!r} as both a file and a folder; pack it again")
    # Overlapping entries are a zip bomb that the ratio of a single entry does not reveal.
    if num_compressed > archive_bytes:
        raise InvalidArchive("entries of the archive overlap, which no regular zip program produces; pack it again")
    _check_ratio("the archive as a whole", num_bytes, archive_bytes, max_ratio)
    return entries, [*_junk_line(junk), *nested]


def _junk_line(junk: list[str]) -> list[tuple[str, str]]:
    if not junk:
        return []
    files = "1 system file" if len(junk) == 1 else f"{len(junk):,} system files"
    return [(files, f"operating systems and programs leave them beside images; the first is {junk[0]}")]


def _is_folder(info: zipfile.ZipInfo) -> bool:
    is_marked = stat.S_ISDIR(info.external_attr >> 16) and info.file_size == 0
    return is_marked or entry_name(info).endswith("/")


def _check_kind(info: zipfile.ZipInfo) -> None:
    """Raise InvalidArchive for an entry that is not a regular file or folder, or has an unsupported format."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise InvalidArchive(f"the entry {shown(info)} is a link; pack the file itself (zip without --symlinks)")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidArchive(f"the entry {shown(info)} is a device or a pipe; remove it and pack the archive again")
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise InvalidArchive(f"the entry {shown(info)} is encrypted; pack the archive without a password")
    # zipfile cannot bound the output of one read of bzip2 and LZMA.
    if info.compress_type not in _METHODS:
        raise InvalidArchive(
            f"the entry {shown(info)} has compression method {info.compress_type}; pack it with deflate: zip -r"
        )
    if info.file_size < 0 or info.compress_size < 0:
        raise InvalidArchive(f"the entry {shown(info)} has a negative size; {_HOW_TO_PACK}")


def _check_ratio(what: str, num_bytes: int, num_compressed: int, max_ratio: float) -> None:
    if num_bytes > _MAX_UNCHECKED_BYTES and num_bytes > max_ratio * num_compressed:
        raise InvalidArchive(
            f"{what} unpacks from {num_compressed:,} to {num_bytes:,} bytes, more than {max_ratio:g} times as many, "
            "as zip bombs do; pack images in their original format"
        )


def _unpack_entry(opened: zipfile.ZipFile, entry: _Entry, into: Path, *, is_only_head: bool) -> None:
    path = into / entry.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": on a case-insensitive file system two names may denote the same file.
        file = path.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidArchive(
            f"the entry {shown(entry.info)} has the same name as another entry except for case; rename one of them"
        ) from error
    with file:
        if is_only_head:
            with closing(_content_of(opened, entry.info)) as content:
                file.write(next(content, b"")[:_HEAD_BYTES])
            file.truncate(entry.info.file_size)
            return
        num_bytes = 0
        for chunk in _content_of(opened, entry.info):
            num_bytes += len(chunk)
            if num_bytes > entry.info.file_size:
                raise InvalidArchive(f"the entry {shown(entry.info)} is larger than it declares; pack it again")
            file.write(chunk)
    if num_bytes != entry.info.file_size:
        raise InvalidArchive(f"the entry {shown(entry.info)} is smaller than it declares; pack it again")


def _content_of(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Generator[bytes]:
    """Yield the bytes of an entry; zipfile verifies their checksum at the end."""
    try:
        with opened.open(info) as content:
            while chunk := content.read(_CHUNK_BYTES):
                yield chunk
    except (*_DAMAGE_ERRORS, OSError) as error:
        raise InvalidArchive(f"the entry {shown(info)} is damaged; pack and send it again") from error
