"""Images that tests draw for themselves."""

import io

import numpy as np
from PIL import Image, ImageDraw


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def colour_image(colour: str | tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Return an image of one colour."""
    return Image.new("RGB", size, colour)


def png(colour: str | tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> bytes:
    """Return the PNG of a one-colour image."""
    return encode(colour_image(colour, size))


def scene(seed: int = 0, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Return an image without symmetry: soft noise with a few shapes on it."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(60, 200, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    width, height = size
    for _ in range(6):
        x, y = int(generator.integers(0, width - 40)), int(generator.integers(0, height - 40))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        draw.rectangle((x, y, x + int(generator.integers(10, 40)), y + int(generator.integers(10, 40))), fill=colour)
    return image
