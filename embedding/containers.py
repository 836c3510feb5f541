"""The bytes of a file that are decoded, without metadata: profiles, texts, previews and further frames cost nothing.

Metadata is left out before a decoder sees the file, so that no amount of it and no damage in it costs the image. Only
the orientation is read from it.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from embedding.errors import InvalidImage, UnsupportedImageFormat
from embedding.jpeg_segments import read_segments
from embedding.tiff_container import sanitise_tiff
from embedding.tiff_tags import tiff_tags

_ORIENTATION_TAG = 0x0112
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")
_MAX_XMP_BYTES = 2**16
# Chunks of a PNG that pixels depend on. The chunks of animations are left out: the default image is the first frame.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_PNG_SIGNATURE_BYTES = 8
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_MAX_PNG_PROFILE_BYTES = 2**18
_WEBP_METADATA = frozenset({b"ICCP", b"EXIF", b"XMP "})
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04
# Names of metadata items in HEIC and AVIF, and of the references that attach any such item to an image: pi_heif crashes
# on damaged ones. Rotation is a property of the image in both formats.
_ISO_METADATA_REFERENCE = re.compile(rb"(\0\0..)cdsc", re.DOTALL)
_ISO_METADATA_ITEM = re.compile(rb"(infe\x02.{7}|infe\x03.{9})(?:Exif|mime|uri )", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DecodedBytes:
    """What a decoder is given, and what it needs beside."""

    data: bytes
    orientation: int = 1  # EXIF orientation; other numbers than 2 to 8 mean upright
    sample_bits: int = 16  # of 16-bit grey samples
    is_inverted: bool = False  # 16-bit grey samples where 0 is white
    may_be_cut: bool = False  # a JPEG without an end marker
    declared_size: tuple[int, int] = (0, 0)  # of a GIF's frame, which may reach beyond its screen
    description: str = ""  # what is particular about the file, for errors


def decoded_bytes(name: str, data: bytes) -> DecodedBytes:
    """Leave out of a file of the format `name` what is not decoded. Raises InvalidImage, UnsupportedImageFormat."""
    strip = _CONTAINERS.get(name)
    return DecodedBytes(data) if strip is None else strip(data)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation of an EXIF block, else of XMP; 1 if there is none that can be read."""
    tag = tiff_tags(exif.removeprefix(b"Exif\0\0")).get(_ORIENTATION_TAG)
    if tag is not None and tag.number is not None:
        return tag.number
    match = _XMP_ORIENTATION.search(xmp[:_MAX_XMP_BYTES])
    return int(match[1]) if match else 1


def _jpeg(data: bytes) -> DecodedBytes:
    segments = read_segments(data)
    if not segments.has_end and not segments.has_all_scans:
        raise InvalidImage("the JPEG image is truncated: later scans are missing; send the whole file")
    orientation = orientation_of(segments.exif, segments.xmp)
    return DecodedBytes(segments.decoded, orientation, may_be_cut=not segments.has_end)


def _png(data: bytes) -> DecodedBytes:
    kept = [data[:_PNG_SIGNATURE_BYTES]]
    exif = xmp = b""
    position = _PNG_SIGNATURE_BYTES
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        content = slice(position + 8, min(position + 8 + length, len(data)))
        if kind == b"IEND":
            break
        if kind == b"CgBI":
            raise UnsupportedImageFormat(
                "PNG images in Apple's application form are not supported; save it as PNG anew"
            )
        if kind == b"IDAT" and position + 12 + length > len(data):
            # Shortened to what there is, so that the decoder misses the rest.
            kept.append(struct.pack(">I4s", content.stop - content.start, kind) + data[content] + bytes(4))
        elif kind in _PNG_CHUNKS:
            kept.append(data[position : position + 12 + length])
        elif kind == b"eXIf":
            exif = exif or data[content]
        elif kind in (b"tEXt", b"zTXt") and data.startswith(b"Raw profile type exif\0", content.start):
            exif = exif or _png_profile(kind, data[content])
        elif kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0\0", content.start):
            xmp = xmp or data[content]
        position += 12 + length
    return DecodedBytes(b"".join(kept) + _PNG_END, orientation_of(exif, xmp))


def _png_profile(kind: bytes, content: bytes) -> bytes:
    """Read an EXIF block that older programs write as text: a name, a length and hexadecimal digits."""
    text = content.partition(b"\0")[2]
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PNG_PROFILE_BYTES)
        return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def _webp(data: bytes) -> DecodedBytes:
    kept: list[bytes] = []
    exif = xmp = b""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        content = data[position + 8 : position + 8 + length]
        if kind == b"EXIF":
            exif = exif or content
        elif kind == b"XMP ":
            xmp = xmp or content
        elif kind == b"VP8X" and content:
            kept.append(data[position : position + 8] + bytes([content[0] & ~_WEBP_METADATA_FLAGS]) + content[1:])
        elif kind not in _WEBP_METADATA:
            kept.append(data[position : position + 8 + length + length % 2])
        position += 8 + length + length % 2
        if position >= struct.unpack_from("<I", data, 4)[0] + 8:
            break  # what follows belongs to no image
    body = b"".join(kept)
    return DecodedBytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, orientation_of(exif, xmp))


def _gif(data: bytes) -> DecodedBytes:
    """Keep the first frame: the screen, its palette, the last control block and the first image."""
    if len(data) < 13:
        raise InvalidImage("the GIF image is truncated: it ends before its pixels; send the whole file")
    position = 13 + _palette_bytes(data[10])
    header, control = data[:position], b""
    while position < len(data):
        if data[position] == 0x21:
            end = _after_sub_blocks(data, position + 2)
            if data[position + 1 : position + 2] == b"\xf9":
                control = data[position:end]
            position = end
        elif data[position] == 0x2C and position + 10 <= len(data):
            end = _after_sub_blocks(data, position + 11 + _palette_bytes(data[position + 9]))
            left, top, width, height = struct.unpack_from("<4H", data, position + 1)
            return DecodedBytes(
                header + control + data[position:end] + b";", declared_size=(left + width, top + height)
            )
        elif data[position] == 0x3B:
            break
        else:
            position += 1
    raise InvalidImage("the GIF image is damaged or truncated: it holds no frame; send the whole file")


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return min(position + 1, len(data))


def _tiff(data: bytes) -> DecodedBytes:
    tiff = sanitise_tiff(data)
    return DecodedBytes(tiff.data, tiff.orientation, tiff.sample_bits, tiff.is_inverted, description=tiff.description)


def _iso_media(data: bytes) -> DecodedBytes:
    """Rename the metadata items of a HEIC or AVIF, in the box that lists them."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
        end = len(data) if size == 0 else position + size
        if kind == b"meta":
            meta = _ISO_METADATA_ITEM.sub(rb"\1skip", data[position:end])
            meta = _ISO_METADATA_REFERENCE.sub(rb"\1skip", meta)
            return DecodedBytes(data[:position] + meta + data[end:])
        if size < 8 and size != 0:
            break
        position = end
    return DecodedBytes(data)


_CONTAINERS: dict[str, Callable[[bytes], DecodedBytes]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "TIFF": _tiff,
    "HEIC": _iso_media,
    "AVIF": _iso_media,
}
