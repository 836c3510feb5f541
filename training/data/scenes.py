"""Synthetic scenes: a catalogue image as a shopper might photograph it, generated from the studio image.

A product on a plain background is cut out, rotated, scaled and placed on a random background, alone or in a pile, with
other lighting, slight blur and perspective. A head can thus learn the effects of photos before there are photos of a
product. An image without a plain background is placed as a whole. All of this is our choice and not in the paper.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy import ndimage

# How far a pixel may be from the background's colour in any channel, and the share of the border within that.
_GROUND_TOLERANCE = 17
_GROUND_BORDER_SHARE = 0.6
# A cut-out with a smaller or larger share of the image is a mistake.
_LEAST_PRODUCT, _MOST_PRODUCT = 0.02, 0.97
_PILE_PROBABILITY = 0.4
_BLUR_PROBABILITY = 0.4


@dataclass(frozen=True, slots=True)
class CutOut:
    """A product without its background: RGB image and opacity mask."""

    product: Image.Image
    mask: Image.Image


def cut_out(image: Image.Image) -> CutOut:
    """Cut a product from its plain background; returns the whole image without one."""
    pixels_HWC = np.asarray(image).astype(np.int16)
    is_product = ~_plain_ground(pixels_HWC)
    if not _LEAST_PRODUCT <= is_product.mean() <= _MOST_PRODUCT:
        is_product[:] = True
    rows, columns = np.flatnonzero(is_product.any(axis=1)), np.flatnonzero(is_product.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    mask = Image.fromarray((is_product * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    return CutOut(image.crop(box), mask.crop(box))


def _plain_ground(pixels_HWC: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Mark the pixels of the border's colour that are connected with the border."""
    border = np.concatenate([pixels_HWC[0], pixels_HWC[-1], pixels_HWC[:, 0], pixels_HWC[:, -1]])
    ground = np.median(border, axis=0)
    is_near = (np.abs(pixels_HWC - ground) <= _GROUND_TOLERANCE).all(axis=2)
    if (np.abs(border - ground) <= _GROUND_TOLERANCE).all(axis=1).mean() < _GROUND_BORDER_SHARE:
        return np.zeros_like(is_near)
    regions, _ = ndimage.label(is_near)
    at_border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    ground_mask: NDArray[np.bool_] = np.isin(regions, at_border[at_border > 0])
    return ground_mask


def draw_scene(cut: CutOut, size: int, random: np.random.Generator) -> Image.Image:
    """Draw a scene of `size` × `size` pixels that depends only on `cut` and `random`."""
    scene = _ground(size, random)
    if random.random() < _PILE_PROBABILITY:
        _pile(scene, cut, random)
    side = random.uniform(0.6, 1.4) * size
    centre = size / 2 + random.uniform(-0.15, 0.15, 2) * size
    _place(scene, cut, side, (float(centre[0]), float(centre[1])), random.normal(0, 15), random)
    scene = _relit(scene, random)
    if random.random() < _BLUR_PROBABILITY:
        scene = scene.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.5)))
    return _in_perspective(scene, random)


def _ground(size: int, random: np.random.Generator) -> Image.Image:
    """Return a smooth pattern of a few patches around one colour."""
    patches = int(random.choice([2, 3, 5, 8]))
    colour = random.uniform(20, 230) + random.uniform(-40, 40, 3)
    light = random.normal(0, random.uniform(10, 50), (patches, patches, 1))
    tint = random.normal(0, random.uniform(5, 30), (patches, patches, 3))
    pattern = (colour + light + tint).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pattern).resize((size, size), Image.Resampling.BICUBIC)


def _pile(scene: Image.Image, cut: CutOut, random: np.random.Generator) -> None:
    """Fill the scene with copies of the product, upright as on a shelf or at any angle as in a crate."""
    size = scene.width
    side = random.uniform(0.3, 0.75) * size
    spread = 15 if random.random() < 0.5 else 60
    for _ in range(int(3 * (size / side) ** 2) + 2):
        place = random.uniform(0, size, 2)
        degrees = random.uniform(-spread, spread)
        _place(scene, cut, side * random.uniform(0.85, 1.15), (float(place[0]), float(place[1])), degrees, random)


def _place(
    scene: Image.Image,
    cut: CutOut,
    side: float,
    centre: tuple[float, float],
    degrees: float,
    random: np.random.Generator,
) -> None:
    width, height = cut.product.size
    scale = side / max(width, height)
    new_size = (max(4, int(width * scale)), max(4, int(height * scale)))
    product, mask = (
        part.resize(new_size, Image.Resampling.BICUBIC).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        for part in (cut.product, cut.mask)
    )
    if random.random() < 0.3:
        product, mask = ImageOps.mirror(product), ImageOps.mirror(mask)
    product = ImageEnhance.Brightness(product).enhance(random.uniform(0.75, 1.15))
    scene.paste(product, (int(centre[0] - product.width / 2), int(centre[1] - product.height / 2)), mask)


def _relit(scene: Image.Image, random: np.random.Generator) -> Image.Image:
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        scene = enhancer(scene).enhance(random.uniform(0.65, 1.35))
    return scene


def _in_perspective(scene: Image.Image, random: np.random.Generator) -> Image.Image:
    size = scene.width
    x, y = (random.uniform(0, 0.12, (2, 4)) * size).tolist()
    corners = (x[0], y[0], x[1], size - y[1], size - x[2], size - y[2], size - x[3], y[3])
    return scene.transform(scene.size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)
