"""Flat images seen in perspective."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Point = tuple[float, float]
Quad = Sequence[Point]  # top left, top right, bottom right, bottom left

# Distance of the camera in units of the package's longer side, near enough for visible perspective.
_CAMERA_DISTANCE = 3.5


def stretch_over_quad(
    image: Image.Image,
    quad: Quad,
    size: tuple[int, int],
) -> tuple[Image.Image, tuple[int, int]]:
    """Stretch an RGBA image over a convex quadrilateral of a canvas of `size`.

    Returns the part that lies on the canvas, transparent around the quadrilateral, and its top left corner.
    """
    # Without a transparent border the transform leaves jagged edges.
    border = 2
    framed = ImageOps.expand(image, border, fill=(0, 0, 0, 0))
    across, down = zip(*quad, strict=True)
    left, top = max(0, math.floor(min(across)) - 1), max(0, math.floor(min(down)) - 1)
    right, bottom = min(size[0], math.ceil(max(across)) + 1), min(size[1], math.ceil(max(down)) + 1)
    first_x, first_y = float(border), float(border)
    last_x, last_y = border + float(image.width), border + float(image.height)
    source = [(first_x, first_y), (last_x, first_y), (last_x, last_y), (first_x, last_y)]
    coefficients = _coefficients([(x - left, y - top) for x, y in quad], source)
    part_size = (max(1, right - left), max(1, bottom - top))
    part = framed.transform(part_size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    return part, (left, top)


def project(points: NDArray[np.float64], turn: float, tilt: float, longer_side: float) -> NDArray[np.float64]:
    """Project points [n, 3] (x right, y down, z away) of a body turned about its height, then tilted, in radians."""
    cos_turn, sin_turn, cos_tilt, sin_tilt = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
    x = points[:, 0] * cos_turn - points[:, 2] * sin_turn
    z = points[:, 0] * sin_turn + points[:, 2] * cos_turn
    y = points[:, 1] * cos_tilt - z * sin_tilt
    z = points[:, 1] * sin_tilt + z * cos_tilt
    distance = _CAMERA_DISTANCE * longer_side
    seen: NDArray[np.float64] = np.stack([x, y], axis=1) * (distance / (distance + z))[:, None]
    return seen


def _coefficients(output: Quad, source: Quad) -> list[float]:
    """Solve for the eight numbers with which Pillow maps output points to source points."""
    rows, values = [], []
    for (x, y), (u, v) in zip(output, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(values))]
