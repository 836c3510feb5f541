"""Images of a product: the shop's studio view, and photos as customers take them.

A photo depends only on seed, product and view number, so every process draws the same one. Another CPU or another
version of numpy or Pillow may round a pixel differently.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from service.demo.sample.backgrounds import draw_background, soft_noise
from service.demo.sample.drawing import Pose, draw_package
from service.demo.sample.products import COLOURS, Colour, SampleProduct, mix
from service.demo.sample.projection import Quad, stretch_over_quad

Pixels = NDArray[np.float32]

LONGER_SIDE_PIXELS = 320

_SKINS: tuple[Colour, ...] = ((232, 188, 160), (198, 146, 112), (140, 94, 68), (88, 58, 44))

# Separates the random numbers of photos from those of product designs.
_PHOTO_STREAM = 1


@dataclass(frozen=True, slots=True)
class _Placement:
    """A package placed on the image: its visible part, the position of that part, and the package's corners."""

    visible: Image.Image
    corner: tuple[int, int]
    quad: Quad


def studio_view(product: SampleProduct) -> Image.Image:
    """Draw the catalogue image: the package from the front on white, with a faint shadow."""
    package = draw_package(product.design, Pose(turn=0.0, tilt=8.0))
    canvas = Image.new("RGB", (LONGER_SIDE_PIXELS, LONGER_SIDE_PIXELS), (255, 255, 255))
    scale = LONGER_SIDE_PIXELS * 0.88 / max(package.size)
    size = (round(package.width * scale), round(package.height * scale))
    package = package.resize(size, Image.Resampling.LANCZOS)
    left, top = ((LONGER_SIDE_PIXELS - side) // 2 for side in package.size)
    floor = top + package.height
    shadow = Image.new("L", canvas.size)
    ImageDraw.Draw(shadow).ellipse((left, floor - 12, left + package.width, floor + 6), fill=90)
    canvas.paste((90, 90, 96), (0, 0), shadow.filter(ImageFilter.GaussianBlur(6)))
    canvas.paste(package, (left, top), package)
    return canvas


def photo_view(product: SampleProduct, view: int) -> Image.Image:
    """Draw a customer's photo: the package turned, tilted and badly lit before a background, recompressed."""
    if view < 0:
        raise ValueError(f"view must be at least 0, got {view}")
    generator = np.random.default_rng([product.seed, product.number, view, _PHOTO_STREAM])
    is_portrait = generator.random() < 0.7
    size = (240, LONGER_SIDE_PIXELS) if is_portrait else (LONGER_SIDE_PIXELS, 240)
    light = float(generator.uniform(-1, 1))
    turn = float(np.clip(generator.normal(0, 22), -48, 48))
    tilt = float(generator.uniform(0, 24))
    package = draw_package(product.design, Pose(turn, tilt, light))
    image = draw_background(generator, size)
    placement = _place(generator, package, size)
    _cast_shadow(generator, image, placement, light)
    image.paste(placement.visible, placement.corner, placement.visible)
    if generator.random() < 0.25:
        _hold(generator, image, placement.quad)
    pixels = _relight(generator, np.asarray(image, np.float32), light)
    return _photographed(generator, Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def _place(generator: np.random.Generator, package: Image.Image, size: tuple[int, int]) -> _Placement:
    """Place the package near the centre: scaled, rotated, skewed, sometimes cropped by the edge."""
    width, height = size
    scale = min(width / package.width, height / package.height) * generator.uniform(0.55, 1.12)
    angle = math.radians(float(np.clip(generator.normal(0, 10), -28, 28)))
    half_x, half_y = package.width * scale / 2, package.height * scale / 2
    corners = np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)])
    corners *= 1 + generator.normal(0, 0.035, corners.shape)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre = np.array([width, height]) * (0.5 + np.clip(generator.normal(0, 0.07, 2), -0.14, 0.14))
    quad = [(float(x), float(y)) for x, y in corners @ rotation + centre]
    return _Placement(*stretch_over_quad(package, quad, size), quad)


def _cast_shadow(
    generator: np.random.Generator,
    image: Image.Image,
    placement: _Placement,
    light: float,
) -> None:
    """Darken the background on the side away from the light."""
    left, top = placement.corner
    corner = (left + round(-light * generator.uniform(6, 26)), top + round(generator.uniform(0, 10)))
    shadow = Image.new("L", image.size)
    shadow.paste(placement.visible.getchannel("A"), corner)
    shadow = shadow.filter(ImageFilter.BoxBlur(float(generator.uniform(3, 10))))
    strength = float(generator.uniform(0.25, 0.65))
    image.paste((12, 12, 18), (0, 0), shadow.point([round(value * strength) for value in range(256)]))


def _hold(generator: np.random.Generator, image: Image.Image, quad: Quad) -> None:
    """Draw a thumb over the left or the right edge of the package."""
    skin = _SKINS[generator.integers(len(_SKINS))]
    from_left = bool(generator.random() < 0.5)
    lower, upper = (quad[3], quad[0]) if from_left else (quad[2], quad[1])
    share = generator.uniform(0.15, 0.5)
    x, y = (a + (b - a) * share for a, b in zip(lower, upper, strict=True))
    package_width = math.dist(quad[0], quad[1])
    breadth = float(np.clip(package_width * 0.1, 9, 20))
    reach = package_width * generator.uniform(0.15, 0.3) + breadth / 2
    # The thumb is drawn pointing right, then mirrored if needed and rotated about the point of contact.
    layer = Image.new("RGBA", image.size, (*skin, 0))
    draw = ImageDraw.Draw(layer)
    shade, nail = mix(skin, COLOURS["black"], 0.3), mix(skin, COLOURS["white"], 0.45)
    draw.rounded_rectangle((-900, y - breadth, x + reach, y + breadth), radius=breadth * 0.95, fill=shade)
    lit_part = (-900, y - breadth, x + reach - 1, y + breadth * 0.6)
    draw.rounded_rectangle(lit_part, radius=breadth * 0.8, fill=skin)
    nail_box = (x + reach - breadth * 1.3, y - breadth * 0.6, x + reach - 2, y + breadth * 0.35)
    draw.rounded_rectangle(nail_box, radius=breadth * 0.4, fill=nail)
    if not from_left:
        # Mirror about x, so that the point of contact stays in place.
        layer = layer.transform(layer.size, Image.Transform.AFFINE, (-1, 0, 2 * x, 0, 1, 0))
    layer = layer.rotate(float(generator.uniform(-30, 30)), Image.Resampling.BILINEAR, center=(x, y))
    alpha = layer.getchannel("A")
    image.paste((30, 20, 16), (2, 4), alpha.point([value // 3 for value in range(256)]))
    image.paste(layer, (0, 0), alpha)


def _relight(generator: np.random.Generator, pixels: Pixels, light: float) -> Pixels:
    """Change exposure, contrast, colour temperature and saturation, and let light fall off across the image."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    falloff = 1 + generator.uniform(0.05, 0.35) * (light * x + generator.uniform(-0.6, 0.6) * y)
    falloff *= 1 - generator.uniform(0, 0.25) * (x**2 + y**2) / 2
    warmth, tint = generator.normal(0, 0.1), generator.normal(0, 0.03)
    balance = np.array([1 + warmth, 1 + tint, 1 - warmth], np.float32)
    grey: Pixels = (pixels[..., :1] + pixels[..., 1:2] + pixels[..., 2:]) / np.float32(3)
    pixels = grey + (pixels - grey) * generator.uniform(0.55, 1.2)
    exposure, contrast = generator.uniform(0.55, 1.3), generator.uniform(0.7, 1.15)
    pixels = (pixels - 128) * contrast + 128
    pixels = pixels * balance * (exposure * falloff[..., None])
    if generator.random() < 0.35:
        pixels += _glare(generator, x, y)[..., None]
    return pixels + soft_noise(generator, (width, height), 60, 4)[..., None]


def _glare(generator: np.random.Generator, x: Pixels, y: Pixels) -> Pixels:
    """Return the brightness that a lamp's reflection adds."""
    centre_x, centre_y = generator.uniform(-0.5, 0.5, 2)
    squeeze = generator.uniform(1, 3)
    distance = (x - centre_x) ** 2 * squeeze + (y - centre_y) ** 2 / squeeze
    glare: Pixels = generator.uniform(60, 170) * np.exp(-distance / generator.uniform(0.02, 0.1))
    return glare


def _photographed(generator: np.random.Generator, image: Image.Image) -> Image.Image:
    """Add the blur, noise and JPEG artefacts of a cheap camera."""
    image = image.filter(ImageFilter.GaussianBlur(float(generator.uniform(0.2, 1.6))))
    pixels = np.asarray(image, np.float32)
    noise = generator.uniform(2, 9) * generator.standard_normal(pixels.shape[:2], np.float32)
    image = Image.fromarray(np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(generator.integers(35, 80)))
    return Image.open(buffer).convert("RGB")
