"""Image bytes to an RGB image: the same decoder for training, indexing and queries.

Rules, in this order:

* Formats: JPEG (including MPO, which phones write), PNG, WebP, GIF, BMP, TIFF; only the first frame or page is read.
* Limits on bytes and pixels are checked from the header, before any pixel is decoded.
* 16-bit samples keep their high byte (value >> 8); 32-bit and floating-point images are refused, since their value
  range is unknown.
* CMYK is converted by Pillow's plain formula; embedded ICC profiles are ignored, as is common in image retrieval.
* Transparent pixels are composed on white. Grey and palette images become RGB.
* The EXIF orientation is applied.
"""

import io
import logging
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat

log = logging.getLogger(__name__)

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Pillow's name of a format -> media type and file extension.
MEDIA_TYPES = {
    "JPEG": ("image/jpeg", "jpg"),
    "MPO": ("image/jpeg", "jpg"),
    "PNG": ("image/png", "png"),
    "WEBP": ("image/webp", "webp"),
    "GIF": ("image/gif", "gif"),
    "BMP": ("image/bmp", "bmp"),
    "TIFF": ("image/tiff", "tif"),
}

_ORIENTATION_TAG = 0x0112
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
_DIRECT_MODES = frozenset({"RGB", "L", "1", "CMYK", "YCbCr"})
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "P", "RGBa", "La"})
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# A progressive JPEG may refine the whole image in any number of scans of a few bytes each, so that 300 kB take minutes
# to decode. Encoders write about ten scans.
_MAX_JPEG_SCANS = 100
_STRIP_ROWS = 256
_START_OF_SCAN = b"\xff\xda"
# Exceptions of Pillow's parsers on damaged files, found by fuzzing; DecompressionBombError is handled separately.
_PARSER_FAILURES = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError,
    struct.error, zlib.error, Warning,
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
    source = _open(image_bytes, limits)
    media_type, extension = MEDIA_TYPES[source.format or ""]
    try:
        source.load()
        image = _to_rgb(_upright(source))
    except InvalidImage:
        raise
    except _PARSER_FAILURES as error:
        raise InvalidImage(f"the {source.format} image is damaged or truncated: {error}") from error
    return DecodedImage(image, media_type, extension)


def _open(image_bytes: bytes, limits: DecodingLimits) -> Image.Image:
    """Read the header only; raises InvalidImage for an image that must not be decoded."""
    pixel_limit = f"at most {limits.max_image_pixels:,} pixels are allowed"
    try:
        source = Image.open(io.BytesIO(image_bytes), formats=ALLOWED_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the header of the image declares too many pixels; {pixel_limit}") from error
    except UnidentifiedImageError:
        formats = ", ".join(ALLOWED_FORMATS)
        raise UnsupportedImageFormat(f"the bytes are not an image in a supported format ({formats})") from None
    except _PARSER_FAILURES as error:
        raise InvalidImage(f"the image's header is damaged: {error}") from error
    width, height = source.size
    if width * height > limits.max_image_pixels:
        raise ImageTooLarge(f"the image is {width:,} × {height:,} pixels; {pixel_limit}")
    if source.format not in MEDIA_TYPES:
        raise UnsupportedImageFormat(f"{source.format} images are not supported")
    if MEDIA_TYPES[source.format] == MEDIA_TYPES["JPEG"]:
        num_scans = image_bytes.count(_START_OF_SCAN)
        if num_scans > _MAX_JPEG_SCANS:
            raise InvalidImage(f"the JPEG has {num_scans:,} scans; at most {_MAX_JPEG_SCANS} are allowed")
    return source


def _upright(source: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block is ignored.

    ImageOps.exif_transpose also rewrites the EXIF block, and fails on some readable blocks.
    """
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG, 1)
    except _PARSER_FAILURES as error:
        log.warning("unreadable EXIF block, orientation not applied: %s", error)
        return source
    method = _TRANSPOSITIONS.get(orientation)
    return source if method is None else source.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        image = _from_sixteen_bits(image)
    if image.mode in _ALPHA_MODES or image.has_transparency_data:
        return _on_white(image)
    if image.mode in _DIRECT_MODES:
        return image.convert("RGB")
    raise UnsupportedImageFormat(
        f"images of colour mode {image.mode!r} are not supported; save it as 8- or 16-bit RGB or grey"
    )


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image).astype(np.uint16)
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
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
