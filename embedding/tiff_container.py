"""A TIFF whose first directory has only the entries that pixels depend on, and what in it cannot be decoded."""

import operator
import struct
from dataclasses import dataclass

from embedding.errors import InvalidImage, UnsupportedImageFormat
from embedding.tiff_tags import TiffDirectory, TiffTag, tiff_directory, tiff_tags

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _PLANAR, _TILE_OFFSETS, _EXTRA = 273, 274, 277, 284, 324, 338
_STRIP_BYTES, _TILE_BYTES, _SAMPLE_FORMAT, _SUBSAMPLING = 279, 325, 339, 530
_SHORT, _LONG = 3, 4
_GREY, _RGB, _CMYK, _YCBCR = 1, 2, 5, 6
_NUM_COLOURS = {0: 1, _GREY: 1, _RGB: 3, 3: 1, _CMYK: 4, _YCBCR: 3, 8: 3}
_MAX_EXTRA_SAMPLES = 8
# Entries of one number: size, compression, meaning of samples, fill order, strips, fax, planes, predictor, tiles.
_SINGLE = frozenset({256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323})
# Entries of several: bits, positions and lengths, palette, extra samples, sample format, JPEG tables, YCbCr.
_SEVERAL = frozenset({258, 273, 279, 320, 324, 325, 338, 339, 347, 529, 530, 532, 512, 513, 514, 515, 519, 520, 521})
_NAMES_OF_COLOURS = {
    0: "grey (0 is white)", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "LAB", 9: "ICC LAB",
    10: "ITU LAB", 32844: "LogL", 32845: "LogLuv",
}  # fmt: skip
_NAMES_OF_COMPRESSIONS = {
    1: "none", 2: "CCITT", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "deflate",
    32773: "PackBits", 32946: "deflate", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
    34887: "LERC", 34925: "LZMA", 34933: "PNG", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_NAMES_OF_EXTRA_SAMPLES = {0: "an unspecified channel", 1: "associated alpha", 2: "alpha"}
_REMEDY = "save it as 8-bit RGB or grey, without layers"


@dataclass(frozen=True, slots=True)
class SanitisedTiff:
    """A TIFF without metadata and further pages, and what its directory says of its pixels."""

    data: bytes
    orientation: int
    sample_bits: int
    is_inverted: bool
    description: str


def sanitise_tiff(data: bytes) -> SanitisedTiff:
    """Keep the entries of the first directory that pixels depend on.

    Raises InvalidImage for a directory that is damaged or not there, and UnsupportedImageFormat for an arrangement of
    pixels that the decoder would read wrongly.
    """
    directory, tags = tiff_directory(data), tiff_tags(data)
    has_pixels = _STRIP_OFFSETS in tags or _TILE_OFFSETS in tags
    if directory is None or not has_pixels or _WIDTH not in tags or _HEIGHT not in tags:
        raise InvalidImage("the TIFF image is damaged or truncated: it lacks the description of its pixels")
    for offsets, lengths in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        ends = map(operator.add, *(tags[tag].numbers if tag in tags else () for tag in (offsets, lengths)))
        if max(ends, default=0) > len(data):
            raise InvalidImage("the TIFF image is truncated: the file ends before its pixels do; send the whole file")
    description = _description(tags)
    _check(directory, tags, description)
    bits = _number(tags, _BITS, 1)
    # Pillow reads 16-bit grey where 0 is white only in one byte order, and does not invert it.
    is_inverted = 8 < bits <= 16 and _number(tags, _SAMPLES, 1) == 1 and _number(tags, _PHOTOMETRIC, 0) == 0
    content = bytearray(data + bytes(len(data) % 2))
    kept: dict[int, bytes] = {}
    for tag, position in directory.entries.items():
        if tag in tags and tag in _SEVERAL:
            if tags[tag].is_cut:
                raise InvalidImage(
                    "the TIFF image is truncated: the file ends within its directory; send the whole file"
                )
            kept[tag] = data[position : position + directory.entry_bytes]
        elif tag in tags and tag in _SINGLE:
            # Written anew: some programs repeat the number for each channel.
            kept[tag] = _entry(directory, tag, tags[tag].number or 0)
    if is_inverted:
        kept[_PHOTOMETRIC] = _entry(directory, _PHOTOMETRIC, _GREY)
    if num_missing := _num_missing_extra_samples(tags):
        extras = (tags[_EXTRA].numbers if _EXTRA in tags else ()) + (0,) * num_missing
        kept[_EXTRA] = _list_entry(content, directory, _EXTRA, extras)
    _append_directory(content, directory, kept)
    return SanitisedTiff(
        bytes(content),
        orientation=_number(tags, _ORIENTATION, 1),
        sample_bits=bits if 8 < bits < 16 else 16,
        is_inverted=is_inverted,
        description=description,
    )


def _append_directory(content: bytearray, directory: TiffDirectory, entries: dict[int, bytes]) -> None:
    order = directory.byte_order
    count, offset, position = ("Q", "Q", 8) if directory.is_big else ("H", "I", 4)
    start = len(content)
    content += struct.pack(f"{order}{count}", len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    content += bytes(struct.calcsize(offset))  # no further page
    struct.pack_into(f"{order}{offset}", content, position, start)


def _entry(directory: TiffDirectory, tag: int, value: int) -> bytes:
    """Return an entry of one number of the type LONG."""
    value = max(0, min(value, 2**32 - 1))
    padding, count_format = (bytes(4), "Q") if directory.is_big else (b"", "I")
    return struct.pack(f"{directory.byte_order}HH{count_format}I", tag, _LONG, 1, value) + padding


def _list_entry(content: bytearray, directory: TiffDirectory, tag: int, values: tuple[int, ...]) -> bytes:
    """Return an entry of numbers of the type SHORT; those that do not fit into it are appended to `content`."""
    order = directory.byte_order
    count, offset, room = ("Q", "Q", 8) if directory.is_big else ("I", "I", 4)
    stored = struct.pack(f"{order}{len(values)}H", *values)
    if len(stored) > room:
        position = len(content)
        content += stored
        stored = struct.pack(f"{order}{offset}", position)
    return struct.pack(f"{order}HH{count}", tag, _SHORT, len(values)) + stored.ljust(room, b"\0")


def _num_missing_extra_samples(tags: dict[int, TiffTag]) -> int:
    """Count the channels of which the file does not say what they are."""
    photometric, num_channels = _number(tags, _PHOTOMETRIC, 0), _number(tags, _SAMPLES, 1)
    num_extra = num_channels - _NUM_COLOURS.get(photometric, num_channels)
    if _EXTRA not in tags and photometric == _RGB and num_extra == 1:
        return 0  # Pillow takes it for alpha
    num_named = len(tags[_EXTRA].numbers) if _EXTRA in tags else 0
    return num_extra - num_named if num_named < num_extra <= _MAX_EXTRA_SAMPLES else 0


def unsupported_tiff(description: str) -> UnsupportedImageFormat:
    """Return the error for a TIFF that is valid and that no decoder here reads."""
    return UnsupportedImageFormat(f"TIFF images with {description} are not supported; {_REMEDY}")


def _check(directory: TiffDirectory, tags: dict[int, TiffTag], description: str) -> None:
    """Refuse what Pillow does not read, or reads without an error and with other pixels."""
    if directory.is_big and directory.byte_order == ">":
        raise unsupported_tiff(f"64-bit offsets in big-endian order ({description})")
    if _number(tags, _COMPRESSION, 1) not in _NAMES_OF_COMPRESSIONS:
        raise unsupported_tiff(description)
    bits, photometric = _number(tags, _BITS, 1), _number(tags, _PHOTOMETRIC, 0)
    is_plain, is_planar = _number(tags, _COMPRESSION, 1) == 1, _number(tags, _PLANAR, 1) == 2
    is_subsampled = tags[_SUBSAMPLING].numbers[:2] != (1, 1) if _SUBSAMPLING in tags else True
    if is_plain and photometric == _YCBCR and (is_subsampled or is_planar):
        raise unsupported_tiff(f"uncompressed YCbCr ({description})")
    if not is_planar or _number(tags, _SAMPLES, 1) == 1:
        return
    extras = tags[_EXTRA].numbers if _EXTRA in tags else ()
    are_ignored = not any(extras) and photometric in (_GREY, _RGB, _CMYK)
    if (is_plain and bits != 8) or (extras and not are_ignored and (photometric, extras) != (_RGB, (2,))):
        raise unsupported_tiff(f"separate planes ({description})")


def _description(tags: dict[int, TiffTag]) -> str:
    """Name what decides whether a TIFF can be decoded: colours, channels, bits, extra samples and compression."""
    photometric, compression = _number(tags, _PHOTOMETRIC, 0), _number(tags, _COMPRESSION, 1)
    bits = sorted(set(tags[_BITS].numbers)) if _BITS in tags else [1]
    num_channels = _number(tags, _SAMPLES, 1)
    parts = [
        _NAMES_OF_COLOURS.get(photometric, f"colours of type {photometric}"),
        f"{num_channels} channel{'' if num_channels == 1 else 's'}",
        f"{' and '.join(str(value) for value in bits)} bits",
    ]
    if _EXTRA in tags:
        extras = tags[_EXTRA].numbers
        parts.append(" and ".join(dict.fromkeys(_NAMES_OF_EXTRA_SAMPLES.get(extra, "other") for extra in extras)))
    sample_format = _number(tags, _SAMPLE_FORMAT, 1)
    if sample_format != 1:
        parts.append({2: "signed samples", 3: "floating-point samples"}.get(sample_format, "samples of unknown type"))
    if compression != 1:
        parts.append(f"{_NAMES_OF_COMPRESSIONS.get(compression, f'type {compression}')} compression")
    return ", ".join(parts)


def _number(tags: dict[int, TiffTag], tag: int, default: int) -> int:
    number = tags[tag].number if tag in tags else None
    return default if number is None else number


def _single(tag: int, entry: TiffTag, *, is_big: bool) -> bytes:
    value = max(0, min(entry.number or 0, 2**32 - 1))
    if is_big:
        # The number fills the first four of the eight bytes of a value, in either byte order.
        return struct.pack(f"{entry.byte_order}HHQII", tag, 4, 1, value, 0)
    return struct.pack(f"{entry.byte_order}HHII", tag, 4, 1, value)
