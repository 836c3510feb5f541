"""Backgrounds of customer photos."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from service.demo.sample.products import COLOURS, Colour, mix

Size = tuple[int, int]

_WALLS: tuple[Colour, ...] = (
    (226, 222, 214), (188, 198, 204), (206, 186, 160), (120, 130, 128), (92, 84, 82), (214, 204, 222), (168, 186, 160),
    (70, 86, 104), (232, 214, 190),
)  # fmt: skip
_WOODS: tuple[Colour, ...] = ((176, 128, 84), (120, 82, 54), (206, 172, 128), (88, 66, 52), (154, 146, 136))


def draw_background(generator: np.random.Generator, size: Size) -> Image.Image:
    """Draw one of several kinds of background (RGB)."""
    kind = int(generator.integers(len(_BACKGROUNDS)))
    return _BACKGROUNDS[kind](generator, size)


def soft_noise(generator: np.random.Generator, size: Size, cell: int, strength: float) -> NDArray[np.float32]:
    """Return smooth noise [H, W] around 0 whose blotches are about `cell` pixels wide."""
    width, height = size
    coarse = generator.normal(0, strength, (max(2, height // cell), max(2, width // cell))).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def _from_pixels(pixels: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _filled(size: Size, colour: Colour) -> NDArray[np.float32]:
    return np.full((size[1], size[0], 3), colour, np.float32)


def _any_of(generator: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[generator.integers(len(colours))]


def _any_colour(generator: np.random.Generator) -> Colour:
    return _any_of(generator, tuple(COLOURS.values()))


def _paper(generator: np.random.Generator, size: Size) -> Image.Image:
    """A plain surface, lit from one side."""
    colour = mix(_any_of(generator, _WALLS), _any_colour(generator), 0.3)
    ramp = np.linspace(0.8, 1.15, size[0], dtype=np.float32)[None, :, None]
    return _from_pixels(_filled(size, colour) * ramp + soft_noise(generator, size, 3, 2)[..., None])


def _table(generator: np.random.Generator, size: Size) -> Image.Image:
    """A wall behind the edge of a table."""
    width, height = size
    pixels = _filled(size, _any_of(generator, _WALLS))
    horizon = int(height * generator.uniform(0.5, 0.8))
    pixels[horizon:] = np.asarray(_wood(generator, (width, height - horizon)))
    pixels += soft_noise(generator, size, 24, 5)[..., None]
    return _from_pixels(pixels)


def _wood(generator: np.random.Generator, size: Size) -> Image.Image:
    """Boards with grain."""
    width, height = size
    grain = generator.normal(0, 9, (height, max(2, width // 40))).astype(np.float32)
    streaks = np.asarray(Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC))
    board = int(generator.integers(36, 80))
    boards = np.arange(height) // board
    shade = generator.uniform(0.85, 1.1, boards.max() + 1)[boards]
    shade[np.arange(height) % board < 2] *= 0.55
    pixels = _filled(size, _any_of(generator, _WOODS)) * shade[:, None, None]
    return _from_pixels(pixels + streaks[..., None])


def _cloth(generator: np.random.Generator, size: Size) -> Image.Image:
    """A checked tablecloth."""
    width, height = size
    period = int(generator.integers(24, 60))
    across = (np.arange(width) // (period // 2) % 2).astype(np.float32)
    down = (np.arange(height) // (period // 2) % 2).astype(np.float32)
    share = (across[None, :] + down[:, None]) * np.float32(0.375)
    white, colour = _filled(size, COLOURS["white"]), _filled(size, _any_colour(generator))
    creases = soft_noise(generator, size, 30, 8)
    return _from_pixels(white + (colour - white) * share[..., None] + creases[..., None])


def _tiles(generator: np.random.Generator, size: Size) -> Image.Image:
    """Kitchen tiles with joints."""
    width, height = size
    side = int(generator.integers(40, 90))
    pixels = _filled(size, _any_of(generator, _WALLS))
    shade = generator.uniform(0.9, 1.06, (height // side + 1, width // side + 1))
    pixels *= shade[np.arange(height) // side][:, np.arange(width) // side][..., None]
    pixels[np.arange(height) % side < 3] = 150
    pixels[:, np.arange(width) % side < 3] = 150
    return _from_pixels(pixels)


def _stone(generator: np.random.Generator, size: Size) -> Image.Image:
    """A speckled worktop."""
    pixels = _filled(size, mix(_any_of(generator, _WALLS), COLOURS["grey"], 0.4))
    pixels += soft_noise(generator, size, 40, 14)[..., None]
    pixels += soft_noise(generator, size, 2, 20)[..., None]
    return _from_pixels(pixels)


def _shelf(generator: np.random.Generator, size: Size) -> Image.Image:
    """A shelf in a shop with other products on it, out of focus."""
    width, height = size
    image = Image.new("RGB", size, mix(_any_of(generator, _WALLS), COLOURS["black"], 0.35))
    draw = ImageDraw.Draw(image)
    board = int(height * generator.uniform(0.78, 0.9))
    for floor in (board - int(height * 0.75), board):
        x = int(generator.integers(-30, 0))
        while x < width:
            x += _draw_neighbour(generator, draw, x, floor, height)
        draw.rectangle((0, floor, width, floor + 14), fill=_any_of(generator, _WOODS))
        for tag in range(int(generator.integers(0, 60)), width, 90):
            draw.rectangle((tag, floor + 1, tag + 34, floor + 13), fill=COLOURS["white"])
            draw.line((tag + 5, floor + 7, tag + 26, floor + 7), fill=COLOURS["black"], width=3)
    return image.filter(ImageFilter.BoxBlur(float(generator.uniform(1.0, 3.0))))


def _draw_neighbour(
    generator: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    x: int,
    floor: int,
    height: int,
) -> int:
    """Draw one package that stands on `floor` at `x`; return the width that it takes up."""
    width, tall = int(generator.integers(40, 90)), int(height * generator.uniform(0.3, 0.6))
    colour, band, emblem_colour = (_any_colour(generator) for _ in range(3))
    radius = int(generator.integers(0, 14))
    draw.rounded_rectangle((x, floor - tall, x + width, floor), radius=radius, fill=colour)
    top = floor - int(tall * generator.uniform(0.5, 0.85))
    draw.rectangle((x, top, x + width, top + tall // 4), fill=band)
    emblem = (x + width // 4, floor - tall // 3, x + 3 * width // 4, floor - tall // 12)
    draw.ellipse(emblem, fill=emblem_colour)
    shaded_edge = (x + width * 0.85, floor - tall, x + width, floor)
    draw.rectangle(shaded_edge, fill=mix(colour, COLOURS["black"], 0.3))
    return width + int(generator.integers(2, 12))


def _clutter(generator: np.random.Generator, size: Size) -> Image.Image:
    """Out-of-focus objects."""
    width, height = size
    image = _wood(generator, size) if generator.random() < 0.5 else _paper(generator, size)
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(5, 11))):
        x, y = generator.uniform(-0.1, 1, 2) * (width, height)
        w, h = generator.uniform(0.1, 0.4, 2) * (width, height)
        colour, dark = _any_colour(generator), mix(_any_colour(generator), COLOURS["black"], 0.4)
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((x + 4, y + 6, x + w + 4, y + h + 6), fill=dark)
        shape((x, y, x + w, y + h), fill=colour)
    return image.filter(ImageFilter.BoxBlur(float(generator.uniform(1.0, 4.0))))


_BACKGROUNDS: tuple[Callable[[np.random.Generator, Size], Image.Image], ...] = (
    _paper, _table, _wood, _cloth, _tiles, _stone, _shelf, _shelf, _clutter, _clutter,
)  # fmt: skip
