"""Names of the entries of an untrusted zip archive: their encoding, their normal form, and what is refused.

An archive marks names in UTF-8 by a flag. macOS and `zip -r` write UTF-8 without it, and some programs add the name in
a field of its own. Other names are in the code page of an unknown machine, and are refused rather than guessed.
"""

import re
import struct
import unicodedata
import zipfile
import zlib
from pathlib import PurePosixPath

from service.catalogue.errors import InvalidArchive
from training.datasets.junk import is_junk

_UTF8_FLAG = 0x0800
# The "Unicode path" field of Info-ZIP: version, checksum of the name in the directory, name in UTF-8.
_UNICODE_PATH = 0x7075
_MAX_NAME_BYTES = 1024
_MAX_PART_BYTES = 255
# Other unprintable characters are allowed: macOS puts a narrow no-break space into names of screenshots.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_RENAME = "rename it and pack the archive again with a zip program"


def is_junk_entry(info: zipfile.ZipInfo) -> bool:
    """Return whether an entry was left by an operating system or a program, whatever else is wrong with its name."""
    text = _decoded(info) or _raw_name(info).decode("utf-8", "replace")
    return any(is_junk(part) for part in text.replace("\\", "/").split("/"))


def entry_name(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry in normal form NFC, with "/" between its parts; raises InvalidArchive.

    Some Windows programs write backslashes, which the same checks then see as separators.
    """
    name = _decoded(info)
    if name is None:
        raise InvalidArchive(
            f"the entry {shown(info)} has a name in an unknown encoding; pack the archive with names in UTF-8 "
            "(7-Zip: parameter cu=on; macOS and Linux: zip -r), or rename the entry"
        )
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def checked_path(info: zipfile.ZipInfo) -> PurePosixPath:
    """Return the path of an entry relative to the folder; raises InvalidArchive for a name that is refused."""
    name = entry_name(info)
    problem = None
    # The same checks on every system, so that an archive is refused everywhere or nowhere.
    if "\0" in name:
        problem = "has a NUL in its name"
    elif not PurePosixPath(name).parts and not name.endswith("/"):
        problem = "has no name"
    elif name.startswith("/") or re.match("[A-Za-z]:", name):
        problem = "has an absolute name"
    elif ".." in name.split("/"):
        problem = 'leads out of the archive with ".."'
    elif _is_too_long(name):
        problem = f"has a name longer than {_MAX_PART_BYTES} bytes, or {_MAX_NAME_BYTES} bytes including its folders"
    elif _CONTROL.search(name):
        problem = "has control characters in its name"
    if problem:
        raise InvalidArchive(f"the entry {shown(info)} {problem}; {_RENAME}")
    return PurePosixPath(name)


def check_same_path(first: zipfile.ZipInfo, second: zipfile.ZipInfo) -> None:
    """Raise InvalidArchive for two entries with the same path."""
    if first.orig_filename == second.orig_filename:
        raise InvalidArchive(f"the archive contains {shown(second)} twice; remove one and pack it again")
    raise InvalidArchive(
        f"the archive contains {escaped(first)} and {escaped(second)}, which are the same name twice; rename one and "
        "pack it again"
    )


def shown(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry for a message: one line of at most 120 characters."""
    name = _decoded(info)
    if name is None:
        return _short(_escaped_bytes(_raw_name(info)))
    return _short(repr(name) if name.isprintable() else ascii(name))


def escaped(info: zipfile.ZipInfo) -> str:
    """Return the name of an entry in ASCII, which shows differences that are not visible."""
    name = _decoded(info)
    return _short(_escaped_bytes(_raw_name(info)) if name is None else ascii(name))


def undecodable_name_reason(error: UnicodeDecodeError) -> str:
    """Describe a name that is marked as UTF-8 and is not; zipfile reads no directory with one."""
    return f"the entry {_short(_escaped_bytes(error.object))} has a name that is marked as UTF-8 and is not; {_RENAME}"


def _decoded(info: zipfile.ZipInfo) -> str | None:
    """Return the name of an entry, or None if its encoding is not known."""
    if info.flag_bits & _UTF8_FLAG:
        return info.orig_filename
    raw = _raw_name(info)
    if (name := _unicode_path(info.extra, raw)) is not None:
        return name
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    # zipfile decodes names without the flag as cp437, which has a character for each byte.
    encoding = "utf-8" if info.flag_bits & _UTF8_FLAG else "cp437"
    return info.orig_filename.encode(encoding, "backslashreplace")


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in the field "Unicode path", if it is about the name in the directory."""
    while len(extra) >= 4:
        tag, size = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        if tag != _UNICODE_PATH or len(content) < 6:
            continue
        version, checksum = struct.unpack_from("<BI", content)
        # A program that does not know the field may have renamed the entry.
        if version == 1 and checksum == zlib.crc32(raw):
            try:
                return content[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _is_too_long(name: str) -> bool:
    whole = name.encode("utf-8", "surrogateescape")
    return len(whole) > _MAX_NAME_BYTES or any(len(part) > _MAX_PART_BYTES for part in whole.split(b"/"))


def _escaped_bytes(name: bytes) -> str:
    # The representation of bytes, without its "b".
    return ascii(bytes(name))[1:]


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
