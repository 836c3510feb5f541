"""HEIC images, decoded by the optional library pi_heif (libheif and libde265, without an encoder)."""

from typing import TYPE_CHECKING

import numpy as np
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
    # Without these two steps pi_heif only reads the decoded samples. It would otherwise rewrite them as wide as the
    # header says, beyond the end of memory where the coded samples are narrower.
    return pi_heif.open_heif(data, convert_hdr_to_8bit=True, hdr_to_16bit=False, remove_stride=False)


def decode_heif(source: "HeifFile") -> Image.Image:
    """Decode the primary image; libheif has applied its rotation and mirroring."""
    primary = source[source.primary_index]
    primary.load()
    if not primary.mode.startswith("I;"):
        return Image.frombytes(primary.mode, primary.size, primary.data, "raw", primary.mode, primary.stride)
    # Grey of more than 8 bits, which libheif does not convert.
    width, height = primary.size
    if primary.stride < 2 * width or primary.stride % 2:
        raise ValueError("the samples are narrower than the header says")
    samples = np.frombuffer(primary.data, "<u2").reshape(height, primary.stride // 2)[:, :width]
    return Image.fromarray((samples >> (primary.info["bit_depth"] - 8)).astype(np.uint8))
