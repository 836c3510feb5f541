"""Image files that tests build byte by byte: those that Pillow does not write, and parts put around an image."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parent / "data"
COLOURS = ((200, 30, 60), (30, 160, 60), (40, 60, 200), (240, 240, 240), (20, 20, 20), (230, 200, 40))
# What metadata may be: nothing here has a meaning.
NOISE = np.random.default_rng(5).bytes(3_000_000)


def blocks() -> Image.Image:
    """Return six blocks of one colour each: few colours, no symmetry, and aligned to the blocks of JPEG."""
    image = Image.new("RGB", (48, 32))
    for i, colour in enumerate(COLOURS):
        left, top = 16 * (i % 3), 16 * (i // 3)
        image.paste(colour, (left, top, left + 16, top + 16))
    return image


def difference(decoded: Image.Image, expected: Image.Image) -> float:
    """Return the mean absolute difference of two images, after comparing their sizes."""
    assert decoded.mode == "RGB"
    assert decoded.size == expected.size
    return float(np.abs(np.asarray(decoded).astype(int) - np.asarray(expected.convert("RGB"))).mean())


def segment(marker: int, payload: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Put segments behind the first marker of a JPEG."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Put chunks behind the header of a PNG."""
    return png[:33] + b"".join(chunks) + png[33:]


def with_webp_chunk(webp: bytes, kind: bytes, content: bytes) -> bytes:
    """Append a chunk to an extended WebP."""
    webp += kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]


def tiff(
    samples: np.ndarray, photometric: int, extras: tuple[int, ...] = (), *, byte_order: str = "<", is_big: bool = False,
    tags: dict[int, tuple[int, bytes]] | None = None,
) -> bytes:  # fmt: skip
    """Return an uncompressed TIFF of samples [height, width, channels] of 8 or 16 bits.

    `tags` adds or replaces entries: tag -> type and content.
    """
    height, width, num_channels = samples.shape
    bits = samples.dtype.itemsize * 8
    pixels = samples.astype(f"{byte_order}u{samples.dtype.itemsize}").tobytes()

    def shorts(*values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"{byte_order}{len(values)}H", *values)

    entries = {256: shorts(width), 257: shorts(height), 258: shorts(*[bits] * num_channels), 259: shorts(1)}
    entries |= {262: shorts(photometric), 277: shorts(num_channels), 278: shorts(height)}
    entries |= {279: (4, struct.pack(f"{byte_order}I", len(pixels)))}
    entries |= {338: shorts(*extras)} if extras else {}
    position, room = (16, 8) if is_big else (8, 4)
    entries |= {273: (4, struct.pack(f"{byte_order}I", position))} | (tags or {})
    content = bytearray(pixels)
    directory = b""
    for tag, (type_, value) in sorted(entries.items()):
        size = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[type_]
        stored = value
        if len(value) > room:
            stored = struct.pack(f"{byte_order}{'Q' if is_big else 'I'}", position + len(content))
            content += value + bytes(len(value) % 2)
        head = struct.pack(f"{byte_order}HH{'Q' if is_big else 'I'}", tag, type_, len(value) // size)
        directory += head + stored.ljust(room, b"\0")
    content += bytes(len(content) % 2)
    start, order = position + len(content), b"II" if byte_order == "<" else b"MM"
    if is_big:
        header = order + struct.pack(f"{byte_order}HHHQ", 43, 8, 0, start)
        return header + content + struct.pack(f"{byte_order}Q", len(entries)) + directory + bytes(8)
    header = order + struct.pack(f"{byte_order}HI", 42, start)
    return header + content + struct.pack(f"{byte_order}H", len(entries)) + directory + bytes(4)
