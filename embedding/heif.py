"""HEIC images, decoded by the optional library pi_heif (libheif and libde265, without an encoder)."""

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pi_heif import HeifFile


def open_heif(data: bytes) -> "HeifFile":
    """Read the header of a HEIC: its size is known, and no pixel is decoded.

    Raises the exceptions of pi_heif for damaged files: ValueError, EOFError, SyntaxError, RuntimeError, OSError.
    """
    import pi_heif  # optional, and only needed for HEIC

    # Thumbnails, depth maps and auxiliary images are not used.
    pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
    return pi_heif.open_heif(data, convert_hdr_to_8bit=True)


def decode_heif(source: "HeifFile") -> Image.Image:
    """Decode the primary image; libheif has applied its rotation and mirroring."""
    primary = source[source.primary_index]
    primary.load()
    return Image.frombytes(primary.mode, primary.size, primary.data, "raw", primary.mode, primary.stride)
