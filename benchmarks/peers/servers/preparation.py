"""Image bytes to the network's input pixels, with Pillow alone."""

import io
import json
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

PREPROCESSING_NAME = "preprocessing.json"


class Preparation:
    """Decoding, EXIF orientation, centre crop and antialiased resize; values as in the checkpoint's preprocessing."""

    def __init__(self, image_size: int, crop_fraction: float, interpolation: str) -> None:
        self._size = (image_size, image_size)
        self._crop_fraction = crop_fraction
        self._resampling = Image.Resampling[interpolation.upper()]

    @classmethod
    def read(cls, files: Path) -> Self:
        """Read the values from the folder of the driver."""
        values = json.loads((files / PREPROCESSING_NAME).read_text())
        return cls(values["image_size"], values["crop_fraction"], values["interpolation"])

    def to_pixels(self, image_bytes: bytes) -> NDArray[np.uint8]:
        """Return uint8 pixels [image_size, image_size, 3]."""
        with Image.open(io.BytesIO(image_bytes)) as source:
            image = ImageOps.exif_transpose(source).convert("RGB")
        width, height = image.size
        side = min(width, height) * self._crop_fraction
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize(self._size, self._resampling, box=box))
