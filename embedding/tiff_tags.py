"""The first directory of a TIFF, or of an EXIF block, which is a TIFF without pixels."""

import struct
from dataclasses import dataclass

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
# Real directories hold fewer than a hundred entries.
_MAX_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class TiffTag:
    """One entry of a directory; the content is cut short where the bytes end before it."""

    content: bytes
    type: int
    byte_order: str
    is_cut: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """The content as integers; empty for text, fractions and floating-point numbers."""
        letter = _INTEGERS.get(self.type)
        if letter is None:
            return ()
        count = len(self.content) // _SIZES[self.type]
        return struct.unpack(f"{self.byte_order}{count}{letter}", self.content[: count * _SIZES[self.type]])

    @property
    def number(self) -> int | None:
        """The first integer."""
        return next(iter(self.numbers), None)


@dataclass(frozen=True, slots=True)
class TiffDirectory:
    """Where the entries of a directory are; `entries` has the position of each by its tag."""

    byte_order: str
    is_big: bool
    start: int
    entries: dict[int, int]

    @property
    def entry_bytes(self) -> int:
        """Length of an entry."""
        return 20 if self.is_big else 12


def tiff_directory(data: bytes) -> TiffDirectory | None:
    """Find the entries of the first directory; None if the bytes end before it, or the header is damaged."""
    byte_order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if byte_order is None or len(data) < 16:
        return None
    (magic,) = struct.unpack_from(f"{byte_order}H", data, 2)
    if magic not in (42, 43):
        return None
    is_big = magic == 43
    start, count_format = (
        (struct.unpack_from(f"{byte_order}Q", data, 8)[0], "Q")
        if is_big
        else (struct.unpack_from(f"{byte_order}I", data, 4)[0], "H")
    )
    count_bytes = struct.calcsize(count_format)
    if start < 8 or start + count_bytes > len(data):
        return None
    (count,) = struct.unpack_from(f"{byte_order}{count_format}", data, start)
    entry_bytes = 20 if is_big else 12
    available = (len(data) - start - count_bytes) // entry_bytes
    entries: dict[int, int] = {}
    for i in range(min(count, available, _MAX_ENTRIES)):
        position = start + count_bytes + i * entry_bytes
        (tag,) = struct.unpack_from(f"{byte_order}H", data, position)
        entries.setdefault(tag, position)
    return TiffDirectory(byte_order, is_big, start, entries)


def tiff_tags(data: bytes) -> dict[int, TiffTag]:
    """Return the entries of the first directory that can be read; empty if there are none."""
    directory = tiff_directory(data)
    if directory is None:
        return {}
    found = {tag: _read(data, directory, position) for tag, position in directory.entries.items()}
    return {tag: entry for tag, entry in found.items() if entry is not None}


def _read(data: bytes, directory: TiffDirectory, position: int) -> TiffTag | None:
    order = directory.byte_order
    if directory.is_big:
        type_, count = struct.unpack_from(f"{order}HQ", data, position + 2)
        value, inline, offset_format = position + 12, 8, "Q"
    else:
        type_, count = struct.unpack_from(f"{order}HI", data, position + 2)
        value, inline, offset_format = position + 8, 4, "I"
    size = _SIZES.get(type_, 0) * count
    if not size:
        return None
    if size > inline:
        (value,) = struct.unpack_from(f"{order}{offset_format}", data, value)
    return TiffTag(data[value : value + size], type_, order, is_cut=value + size > len(data))
