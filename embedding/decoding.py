"""Image bytes to an RGB image: the same decoder for training, indexing and queries.

Rules, in this order:

* Formats: those that embedding.image_format marks as read, by content. White space and a byte order mark before the
  image, and any bytes after it, are ignored. Only the first frame or page is read.
* Limits on bytes and pixels are checked from the header, before any pixel is decoded.
* Metadata costs nothing: only the bytes that are decoded reach a decoder (embedding.containers).
* 16-bit samples keep their high byte (value >> 8); 32-bit, signed and floating-point images are refused, since their
  value range is unknown.
* CMYK is converted by Pillow's plain formula; embedded ICC profiles are ignored, as is common in image retrieval.
* Transparent pixels are composed on white. Grey and palette images become RGB.
* The orientation is applied once: that of EXIF (else XMP) in JPEG, PNG, WebP and TIFF, the image's own rotation in HEIC
  and AVIF.
* A JPEG may lack its end marker; an image that lacks pixels is refused.
"""

import io
import logging
import re
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from embedding.av1_size import av1_sizes
from embedding.containers import DecodedBytes, decoded_bytes, orientation_of
from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from embedding.heif import decode_heif, open_heif
from embedding.image_format import READ_NAMES, ImageFormat, image_format, start_of_content
from embedding.tiff_container import unsupported_tiff

log = logging.getLogger(__name__)

# The readers themselves, not Image.open: it also tries other formats, and warns of sizes that are refused here.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
# EXIF orientation -> the transposition that makes the image upright; 1 and unknown values need none.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DIRECT_MODES = frozenset({"L", "1", "CMYK", "YCbCr"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "P", "RGBa"})
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_NAMES_OF_MODES = {"I": "32-bit or signed samples", "F": "floating-point samples", "LAB": "LAB colours"}
_STRIP_ROWS = 256
_JPEG_END = b"\xff\xd9"
# Compressed data that no encoder writes: where it changes the image, pixels were missing.
_JPEG_FILLING = b"\x5a\x3c\x17\xe2\x81\x94\x6d\x2b" * 32
_EMBEDDED = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP", re.DOTALL)
_SEARCHED_BYTES = 2**16
# Exceptions of Pillow's and pi_heif's parsers on damaged files, found by fuzzing.
_PARSER_FAILURES = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, RuntimeError,
    struct.error, zlib.error, Warning, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """Upper bounds of an image: bytes of the file, and pixels (width × height) that its header declares."""

    max_image_bytes: int = 10 * 2**20
    max_image_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        hard_limit = Image.MAX_IMAGE_PIXELS or 0
        if not 0 < self.max_image_pixels <= hard_limit:
            raise ValueError(f"max_image_pixels must be within 1..{hard_limit}, got {self.max_image_pixels}")
        if self.max_image_bytes < 1:
            raise ValueError(f"max_image_bytes must be at least 1, got {self.max_image_bytes}")


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright RGB image, and the format of its file."""

    image: Image.Image
    media_type: str
    extension: str


def decode_image(image_bytes: bytes, limits: DecodingLimits | None = None) -> Image.Image:
    """Decode `image_bytes` to an upright RGB image.

    Raises UnsupportedImageFormat, ImageTooLarge or InvalidImage.
    """
    return decode_with_format(image_bytes, limits).image


def decode_with_format(image_bytes: bytes, limits: DecodingLimits | None = None) -> DecodedImage:
    """Decode like `decode_image`, and also return the format of the bytes."""
    limits = limits or DecodingLimits()
    if not image_bytes:
        raise InvalidImage("the image is empty (0 bytes)")
    if len(image_bytes) > limits.max_image_bytes:
        raise ImageTooLarge(f"the image has {len(image_bytes):,} bytes; at most {limits.max_image_bytes:,} are allowed")
    known = _format_of(image_bytes)
    prepared = decoded_bytes(known.name, image_bytes[start_of_content(image_bytes) :])
    image = _decode(known, prepared, limits)
    return DecodedImage(image, known.media_type, known.extension)


def _format_of(image_bytes: bytes) -> ImageFormat:
    known = image_format(image_bytes)
    formats = ", ".join(READ_NAMES)
    if known is None:
        embedded = _EMBEDDED.search(image_bytes, 0, _SEARCHED_BYTES)
        reason = f"; an image begins after {embedded.start():,} other bytes: send it alone" if embedded else ""
        raise UnsupportedImageFormat(f"the bytes are not an image in a supported format ({formats}){reason}")
    if not known.is_read:
        raise UnsupportedImageFormat(f"{known.name}: not a supported format ({formats}); {known.remedy}")
    return known


def _decode(known: ImageFormat, prepared: DecodedBytes, limits: DecodingLimits) -> Image.Image:
    try:
        source = _open(known, prepared, limits)
        if source.mode in _SIXTEEN_BIT_MODES:
            source = _from_sixteen_bits(source, prepared)
        return _to_rgb(_upright(source, prepared))
    except InvalidImage:
        raise
    except _PARSER_FAILURES as error:
        # The parser's words are for the log: they name functions and limits that mean nothing to a sender.
        log.debug("%s image not decoded: %s", known.name, error)
        reason = f" ({prepared.description})" if prepared.description else ""
        raise InvalidImage(
            f"the {known.name} image{reason} is damaged or truncated; send the whole file, or save it anew as JPEG"
        ) from error


def _open(known: ImageFormat, prepared: DecodedBytes, limits: DecodingLimits) -> Image.Image:
    """Check the size from the header, then decode the pixels."""
    if known.name == "HEIC":
        heif = open_heif(prepared.data)
        _check_size(heif.size, limits)
        decoded = decode_heif(heif)
        _check_size(decoded.size, limits)
        return decoded
    _check_size(prepared.declared_size, limits)
    data = prepared.data + _JPEG_END if prepared.may_be_cut else prepared.data
    try:
        source = _READERS[known.name](io.BytesIO(data))
    except (SyntaxError, LookupError) as error:
        if known.name == "TIFF":
            raise unsupported_tiff(prepared.description) from error
        raise
    _check_size(source.size, limits)
    if known.name == "JPEG":
        source.decodermaxblock = len(data)  # all bytes in one step, not in blocks that are put together again
    if known.name == "AVIF":
        for size in av1_sizes(data):
            _check_size(size, limits)
    source.load()
    if prepared.may_be_cut:
        filled = prepared.data.rstrip(b"\xff") + _JPEG_FILLING + _JPEG_END
        if ImageChops.difference(source, JpegImagePlugin.JpegImageFile(io.BytesIO(filled))).getbbox(alpha_only=False):
            raise InvalidImage("the JPEG image is truncated: it ends before its last row; send the whole file")
    return source


def _check_size(size: tuple[int, int], limits: DecodingLimits) -> None:
    width, height = size
    if width * height > limits.max_image_pixels:
        raise ImageTooLarge(
            f"the image is {width:,} × {height:,} pixels; at most {limits.max_image_pixels:,} pixels are allowed"
        )


def _upright(source: Image.Image, prepared: DecodedBytes) -> Image.Image:
    """Apply the orientation; unknown values are ignored."""
    # For AVIF, Pillow turns the image's rotation and mirroring into an EXIF orientation.
    orientation = (
        orientation_of(source.info["exif"])
        if source.format == "AVIF" and "exif" in source.info
        else prepared.orientation
    )
    method = _TRANSPOSITIONS.get(orientation)
    return source if method is None else source.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in _ALPHA_MODES or image.has_transparency_data:
        return _on_white(image)
    if image.mode == "RGB":
        return image  # convert() would copy it
    if image.mode in _DIRECT_MODES:
        return image.convert("RGB")
    samples = _NAMES_OF_MODES.get(image.mode, "these colours")
    raise UnsupportedImageFormat(f"images of {samples} are not supported; save it as 8- or 16-bit RGB or grey")


def _from_sixteen_bits(image: Image.Image, prepared: DecodedBytes) -> Image.Image:
    samples = np.asarray(image).astype(np.uint16)
    high = (samples >> (prepared.sample_bits - 8)).astype(np.uint8)
    grey = Image.fromarray(255 - high if prepared.is_inverted else high)
    transparent_sample = image.info.get("transparency")
    if not isinstance(transparent_sample, int):
        return grey
    alpha = Image.fromarray(np.where(samples == transparent_sample, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _on_white(image: Image.Image) -> Image.Image:
    # Strip by strip, since composing a large image at once would keep four copies of it in memory.
    width, height = image.size
    white = Image.new("RGB", image.size, (255, 255, 255))
    for top in range(0, height, _STRIP_ROWS):
        strip = image.crop((0, top, width, min(top + _STRIP_ROWS, height))).convert("RGBA")
        white.paste(strip, (0, top), strip)
    return white
