"""The structure of a JPEG: the segments up to its end marker, which are all that is decoded.

What follows the end marker (a phone's video, further images) and what segments of metadata hold (previews, profiles) is
neither counted nor decoded.
"""

import re
import struct
from dataclasses import dataclass

from embedding.errors import InvalidImage, UnsupportedImageFormat

# A progressive JPEG may refine the whole image in any number of scans of a few bytes each, so that 300 kB take minutes
# to decode. Encoders write about ten scans.
_MAX_SCANS = 100
_START, _END, _START_OF_SCAN, _APP0, _APP1, _APP14, _APP15, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xCA})
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
# In compressed data a byte 0xFF is followed by 0 or a restart marker; other markers end the data.
_END_OF_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd9-\xef\xfe]")
_REMEDY = "save it as an ordinary 8-bit JPEG"


@dataclass(slots=True)
class JpegSegments:
    """The part of a JPEG that is decoded, without its metadata."""

    decoded: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    has_end: bool = False
    num_scans: int = 0
    is_progressive: bool = False
    num_components: int = 0
    # Component, coefficient -> lowest bit that a scan has brought; all are 0 when the image is complete.
    _lowest_bits: dict[tuple[int, int], int] | None = None

    @property
    def has_all_scans(self) -> bool:
        """Whether no later scan could add a coefficient."""
        bits = self._lowest_bits or {}
        num_coefficients = 64 if self.is_progressive else 1
        return len(bits) >= self.num_components * num_coefficients and not any(bits.values())

    def add_frame(self, marker: int, payload: bytes) -> None:
        """Read the header of the frame. Raises UnsupportedImageFormat for kinds that no decoder here reads."""
        if marker not in _DECODED_FRAMES:
            raise UnsupportedImageFormat(f"lossless and hierarchical JPEG images are not supported; {_REMEDY}")
        if len(payload) < 6:
            raise InvalidImage("the JPEG image is damaged or truncated: its header is too short")
        if payload[0] != 8:
            raise UnsupportedImageFormat(f"JPEG images of {payload[0]} bits are not supported; {_REMEDY}")
        self.is_progressive, self.num_components = marker in _PROGRESSIVE_FRAMES, payload[5]
        if self.num_components not in (1, 3, 4):
            raise UnsupportedImageFormat(f"JPEG images of {self.num_components} channels are not supported; {_REMEDY}")

    def add_scan(self, payload: bytes) -> None:
        """Count a scan. Raises InvalidImage above the limit."""
        self.num_scans += 1
        if self.num_scans > _MAX_SCANS:
            raise InvalidImage(f"the JPEG has more than {_MAX_SCANS} scans; at most {_MAX_SCANS} are allowed")
        num_components = payload[0] if payload else 0
        if len(payload) < 4 + 2 * num_components:
            return
        first, last, bits = payload[1 + 2 * num_components : 4 + 2 * num_components]
        self._lowest_bits = self._lowest_bits or {}
        for component in payload[1 : 1 + 2 * num_components : 2]:
            for coefficient in range(first, min(last, 63) + 1) if self.is_progressive else (0,):
                self._lowest_bits[component, coefficient] = bits & 15 if self.is_progressive else 0


def read_segments(data: bytes) -> JpegSegments:
    """Follow the segments of a JPEG to its end marker, or to the end of the data.

    Raises InvalidImage and UnsupportedImageFormat.
    """
    found = JpegSegments()
    kept = [data[:2]]  # headers without metadata, in front of the first scan
    position, first_scan, end = 2, 0, len(data)
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xFF or marker == 0 or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _END:
            found.has_end, end = True, position + 2
            break
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        payload = data[position + 4 : position + 2 + length]
        if marker in _FRAMES:
            found.add_frame(marker, payload)
        elif marker == _START_OF_SCAN:
            first_scan = first_scan or position
            found.add_scan(payload)
            match = _END_OF_SCAN.search(data, position + 2 + length)
            if match is None:
                break
            position = match.start()
            continue
        elif marker == _APP1:
            _take_metadata(found, payload)
        if not first_scan and not (_APP1 <= marker <= _APP15 and marker != _APP14) and marker != _COMMENT:
            kept.append(data[position : position + 2 + length])
        position += 2 + max(length, 2)
    if not first_scan:
        raise InvalidImage("the JPEG image is truncated: it ends before its pixels; send the whole file")
    found.decoded = b"".join(kept) + data[first_scan:end]
    return found


def _take_metadata(found: JpegSegments, payload: bytes) -> None:
    if payload.startswith(_EXIF):
        found.exif = found.exif or payload[len(_EXIF) :]
    elif payload.startswith(_XMP):
        found.xmp = found.xmp or payload[len(_XMP) :]
