"""The sizes that the coded data of an AVIF declares.

The container declares a size too, but the decoder reserves memory for that of the coded data, and only then scales: a
file of a few bytes that declares a small image could otherwise take gigabytes.
"""

import struct
from collections.abc import Callable, Iterator

_CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
_SEQUENCE_HEADER = 1
_MAX_UNITS = 10_000
_MAX_ITEMS = 10_000


def av1_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each AV1 sequence header of the items and tracks.

    Raises IndexError, ValueError and struct.error for damaged files.
    """
    for coded in _coded_parts(data, 0, len(data)):
        yield from _sizes_of_units(coded)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if size == 0 else min(start + size, end)
        if stop < content:
            return
        yield kind, content, stop
        start = stop


def _coded_parts(data: bytes, start: int, end: int) -> Iterator[bytes]:
    for kind, content, stop in _boxes(data, start, end):
        if kind == b"meta":
            inner = {name: (first, last) for name, first, last in _boxes(data, content + 4, stop)}
            if b"iloc" in inner and b"iinf" in inner:
                stored = data[slice(*inner.get(b"idat", (0, 0)))]
                coded = set(_coded_items(data, *inner[b"iinf"]))
                yield from _items(data, data[slice(*inner[b"iloc"])], stored, coded)
        elif kind in _CONTAINERS:
            yield from _coded_parts(data, content, stop)
        elif kind in (b"stco", b"co64"):
            # Where the parts of a track begin; how long they are does not matter here.
            num_bytes = 4 if kind == b"stco" else 8
            (count,) = struct.unpack_from(">I", data, content + 4)
            for i in range(content + 8, min(content + 8 + count * num_bytes, stop), num_bytes):
                offset = int.from_bytes(data[i : i + num_bytes], "big")
                yield data[offset : offset + 4096]


def _coded_items(data: bytes, start: int, end: int) -> Iterator[int]:
    """Yield the ids of the AV1 items of an item information box (ISO/IEC 14496-12, 8.11.6)."""
    for _, content, _ in _boxes(data, start + (8 if data[start] else 6), end):
        id_bytes = 2 if data[content] == 2 else 4
        kind = content + 4 + id_bytes + 2
        if data[kind : kind + 4] == b"av01":
            yield int.from_bytes(data[content + 4 : content + 4 + id_bytes], "big")


def _items(data: bytes, table: bytes, stored: bytes, wanted: set[int]) -> Iterator[bytes]:
    """Yield the bytes of the wanted items of an item location table (ISO/IEC 14496-12, 8.11.3)."""
    position = 8

    def number(num_bytes: int) -> int:
        nonlocal position
        position += num_bytes
        return int.from_bytes(table[position - num_bytes : position], "big")

    version = table[0]
    offset_bytes, length_bytes = table[4] >> 4, table[4] & 15
    base_bytes, index_bytes = table[5] >> 4, table[5] & 15 if version else 0
    position = 6
    for _ in range(min(number(4 if version == 2 else 2), _MAX_ITEMS)):
        item = number(4 if version == 2 else 2)
        is_stored = version > 0 and number(2) & 15 == 1
        number(2)
        base = number(base_bytes)
        source = stored if is_stored else data
        parts = []
        for _ in range(number(2)):
            number(index_bytes)
            first, length = base + number(offset_bytes), number(length_bytes)
            parts.append(source[first : first + length] if length else source[first:])
            if position >= len(table):
                break
        if item in wanted:
            yield b"".join(parts)


def _sizes_of_units(coded: bytes) -> Iterator[tuple[int, int]]:
    """Walk the units of coded data (AV1 specification, 5.3)."""
    position = 0
    for _ in range(_MAX_UNITS):
        if position >= len(coded) or coded[position] & 0x80:
            return
        header = coded[position]
        position += 2 if header & 4 else 1
        size = len(coded) - position
        if header & 2:
            size = shift = 0
            while True:
                byte = coded[position]
                position += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80 or shift > 56:
                    break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            yield _size_of_sequence(coded[position : position + size])
        position += size


def _size_of_sequence(header: bytes) -> tuple[int, int]:
    """Read a sequence header up to its size (AV1 specification, 5.5)."""
    bits = "".join(f"{byte:08b}" for byte in header[:200])
    position = 0

    def number(num_bits: int) -> int:
        nonlocal position
        position += num_bits
        return int(bits[position - num_bits : position] or "0", 2)

    number(4)
    if number(1):  # reduced header of a still image
        number(5)
    else:
        _skip_operating_points(number)
    width_bits, height_bits = number(4) + 1, number(4) + 1
    return number(width_bits) + 1, number(height_bits) + 1


def _skip_operating_points(number: Callable[[int], int]) -> None:
    delay_bits = 0
    if number(1):  # timing
        number(32)
        number(32)
        if number(1):
            num_zeros = 0
            while num_zeros < 32 and not number(1):
                num_zeros += 1
            number(num_zeros)
        if number(1):  # decoder model
            delay_bits = number(5) + 1
            number(42)
    has_display_delay = number(1)
    for _ in range(number(5) + 1):
        number(12)
        if number(5) > 7:
            number(1)
        if delay_bits and number(1):
            number(2 * delay_bits + 1)
        if has_display_delay and number(1):
            number(4)
