"""The antialiased resize of preprocessing: Pillow's pixels, computed with vector instructions where that is possible.

Pillow's loop takes longer than decoding the image. torch computes the same two passes with AVX2, four times as fast.
Its weights have 16 bits, those of Pillow 32: on photos, a few values in a thousand differ by 1, in a million by 2.

torch's grid starts at the edge of its input, while the centre square of an image may start at half a pixel, and
Pillow's filter reads beyond the square. Therefore torch is given more of the image: its grid starts m output pixels
before the square, where m × scale leads to a whole pixel, and the first m are left out.

Shape legend: H height, W width, 4 channels: red, green, blue and one that is not used, as in Pillow's memory.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Reach of the filter to each side, in output pixels. torch has no Lanczos filter for CPUs.
_REACH = {"bilinear": 1, "bicubic": 2}
# Below these, calls cost more than the loop saves.
_MIN_SIDE = 256
_MIN_SCALE = 1.25
_MIN_SIZE = 32
# Pillow exports an image as one Arrow array while it lies in one block of 16 MiB.
_BAND_PIXELS = 2**21
_WHOLE = 1e-7
# torch computes the number of output pixels from the scale, and rounds it down.
_ROUNDING = 1 + 1e-10


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where torch's grid starts, along one axis of the image."""

    start: int  # first pixel of its input; negative where the input begins with pixels that no output needs
    stop: int  # end of its input
    skipped: int  # output pixels before the square
    scale: float  # pixels of the image for each output pixel


def resize_square(
    image: Image.Image, left: float, top: float, side: float, size: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """Resize a square of an RGB image to [size, size, 3], as `Image.resize` with `box` does."""
    reach = _REACH.get(interpolation)
    if reach is not None and _is_faster(image, side, size):
        horizontal, vertical = (_axis(*axis, side, size, reach) for axis in ((left, image.width), (top, image.height)))
        if horizontal is not None and vertical is not None:
            return _resize(image, horizontal, vertical, size, interpolation)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), _RESAMPLING[interpolation], box=box))


def _is_faster(image: Image.Image, side: float, size: int) -> bool:
    # Other processors run torch's general loop, which is not faster, and parallel.
    has_kernel = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    # From version 13 on, Pillow resizes such images vertically first, and rounding in between makes other pixels.
    is_vertical_first = image.height - size > 2 * (image.width - size)
    is_large = side >= max(_MIN_SIDE, _MIN_SCALE * size) and size >= _MIN_SIZE
    return has_kernel and is_large and not is_vertical_first


def _axis(offset: float, length: int, side: float, size: int, reach: int) -> _Axis | None:
    """Place torch's grid over the square; None where no grid that starts at a whole pixel covers it."""
    scale = side / size
    # One pixel more than the filter reads, since it may round up.
    stop = min(length, math.ceil(offset + side + reach * scale) + 1)
    if offset == 0:
        return _Axis(0, stop, 0, scale)
    if offset < reach * scale:
        return None  # the filter is cut at the edge of the image, which the skipped pixels would hide
    for skipped in range(reach, size + 1):
        start = offset - skipped * scale
        if abs(start - round(start)) < _WHOLE:
            return _Axis(round(start), stop, skipped, scale)
    return None


def _resize(
    image: Image.Image, horizontal: _Axis, vertical: _Axis, size: int, interpolation: Interpolation
) -> NDArray[np.uint8]:
    first_row = max(vertical.start, 0)
    pixels_HW4 = np.empty((vertical.stop - first_row, horizontal.stop - horizontal.start, 4), np.uint8)
    first_column = max(horizontal.start, 0)
    inside_HW4 = pixels_HW4[:, first_column - horizontal.start :]
    _copy_pixels(image, (first_column, first_row, horizontal.stop, vertical.stop), inside_HW4)
    columns = slice(horizontal.skipped, horizontal.skipped + size)
    narrow_HW4 = _scaled(pixels_HW4, 1, 1 / horizontal.scale, interpolation)[:, columns]
    rows = slice(vertical.skipped, vertical.skipped + size)
    padded_HW4 = np.empty((vertical.stop - vertical.start, size, 4), np.uint8)
    padded_HW4[first_row - vertical.start :] = narrow_HW4
    return np.ascontiguousarray(_scaled(padded_HW4, 1 / vertical.scale, 1, interpolation)[rows, :, :3])


def _scaled(
    pixels_HW4: NDArray[np.uint8], vertical: float, horizontal: float, interpolation: Interpolation
) -> NDArray[np.uint8]:
    # A permuted view of contiguous memory is torch's channels_last format: anything else would be copied by several
    # threads, and OpenMP threads of decoders slow the network down (service.serving.inference).
    scaled = torch.nn.functional.interpolate(
        torch.from_numpy(pixels_HW4.reshape(1, *pixels_HW4.shape)).permute(0, 3, 1, 2),
        scale_factor=(vertical * _ROUNDING, horizontal * _ROUNDING),
        mode=interpolation,
        antialias=True,
    )
    scaled_HW4: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).numpy()[0]
    return scaled_HW4


def _copy_pixels(image: Image.Image, box: tuple[int, int, int, int], pixels_HW4: NDArray[np.uint8]) -> None:
    """Copy a part of an RGB image."""
    left, top, right, bottom = box
    if image.width * image.height <= _BAND_PIXELS:
        pixels_HW4[:] = _memory_of(image)[top:bottom, left:right]
        return
    num_rows = max(1, _BAND_PIXELS // (right - left))
    for start in range(top, bottom, num_rows):
        band_HW4 = _memory_of(image.crop((left, start, right, min(start + num_rows, bottom))))
        pixels_HW4[start - top :][: len(band_HW4)] = band_HW4


def _memory_of(image: Image.Image) -> NDArray[np.uint8]:
    values: NDArray[np.uint8] = pa.array(image).flatten().to_numpy(zero_copy_only=True)
    return values.reshape(image.height, image.width, 4)
