"""Preprocessing: an RGB image to the input tensor of a network.

Preprocessing is part of the model: it is stored in the checkpoint and enters the space id. The geometric half runs on
the CPU and ends in uint8 pixels, which are cheap to cache and to send to a device; the arithmetic half runs on the
network's device.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from embedding.errors import InvalidCheckpoint
from embedding.resizing import Interpolation, resize_square


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Centre crop, resize and normalisation; equal values produce equal inputs.

    The crop is a centred square whose side is `crop_fraction` of the image's shorter side; it is resized to
    `image_size` pixels with Pillow's antialiased filter (embedding.resizing). Channels are scaled to 0..1, then
    (x - mean) / std. Cropping comes first, so that a very long image costs no more than a square one.
    """

    image_size: int = 224
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    decoding: int = 1  # version of the rules in embedding.decoding, so that changing them changes the space id

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be within 0..1, got {self.crop_fraction}")
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation must be one of {known}, got {self.interpolation!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need three values and std above 0, got {self.mean} and {self.std}")

    def to_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Crop and resize an RGB image to uint8 pixels [image_size, image_size, 3]."""
        if image.mode != "RGB":
            raise ValueError(f"the image must be RGB, got mode {image.mode!r}; decode it with decode_image")
        width, height = image.size
        side = min(width, height) * self.crop_fraction
        left, top = (width - side) / 2, (height - side) / 2
        return resize_square(image, left, top, side, self.image_size, self.interpolation)

    def normalise(self, pixels_NHWC: Tensor) -> Tensor:
        """Turn uint8 pixels [N, H, W, 3] into the network's float32 input [N, 3, H, W], channels last in memory.

        It runs on the device of the pixels, with one multiplication and one addition per value.
        """
        device = pixels_NHWC.device
        std = torch.tensor(self.std, device=device)
        scale = 1 / (255 * std)
        offset = -torch.tensor(self.mean, device=device) / std
        # A permuted view of contiguous NHWC memory is the channels_last format of an NCHW tensor.
        return torch.addcmul(offset, pixels_NHWC.float(), scale).permute(0, 3, 1, 2)

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that a checkpoint stores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Self:
        """Read a stored value; raises InvalidCheckpoint for unknown names, whose effect would be ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(stored.keys() - known):
            raise InvalidCheckpoint(f"this version of Akin does not support the preprocessing options {unknown}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
        try:
            return cls(**cast(dict[str, Any], values))  # checked by __post_init__
        except (TypeError, ValueError) as error:
            raise InvalidCheckpoint(f"the stored preprocessing is invalid: {error}") from error
