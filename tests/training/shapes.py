"""A data set of coloured shapes, one folder per class, that a small network learns in seconds."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("disc", "square", "triangle", "cross")
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (50, 70, 200)}


def draw_shape(shape: str, colour: tuple[int, int, int], seed: int) -> Image.Image:
    """Draw one shape at a random place on a noisy background."""
    generator = np.random.default_rng(seed)
    ground = generator.integers(90, 165, (48, 48, 3), dtype=np.uint8)
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    x, y = (int(value) for value in generator.integers(6, 18, 2))
    side = int(generator.integers(18, 26))
    if shape == "disc":
        draw.ellipse((x, y, x + side, y + side), fill=colour)
    elif shape == "square":
        draw.rectangle((x, y, x + side, y + side), fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=colour)
    else:
        third = side // 3
        draw.rectangle((x + third, y, x + 2 * third, y + side), fill=colour)
        draw.rectangle((x, y + third, x + side, y + 2 * third), fill=colour)
    return image


def write_shapes(root: Path, *, per_class: int = 8, with_examples: bool = False) -> Path:
    """Write twelve classes of images; with examples, all but the first image of each class are examples."""
    for shape in SHAPES:
        for name, colour in COLOURS.items():
            folder = root / f"{name}-{shape}"
            for number in range(per_class):
                inner = folder / "example" if with_examples and number else folder
                inner.mkdir(parents=True, exist_ok=True)
                seed = hash_of(f"{shape} {name} {number}")
                draw_shape(shape, colour, seed).save(inner / f"{number}.png")
    return root


def hash_of(text: str) -> int:
    """Return a hash of the text that is equal in every process."""
    return zlib.crc32(text.encode())
