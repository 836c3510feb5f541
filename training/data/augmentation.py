"""Augmentation of whole batches on the device: random resized crop, flip, colour.

A few random numbers per image are drawn on the host, so that a seed gives the same images on every device, and each of
several processes can draw for the whole batch and apply its own share.

Shape legend: B images, H height, W width.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from embedding.preprocessing import Preprocessing
from training.config import AugmentationConfig

# Weights of red, green and blue in grey (ITU-R BT.601), as in Pillow.
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Draws:
    """The random transformation of each image of a batch."""

    crop: Tensor  # [B, 4] centre x, centre y, width, height of the crop; the image spans -1..1
    colour: Tensor  # [B, 3] factors of brightness, contrast and saturation

    def __getitem__(self, rows: slice) -> "Draws":
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.crop)


def uncropped(preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing of cached training images: the whole centre square, at the scale of evaluation.

    The area outside the centre square is used neither in training nor in evaluation.
    """
    if preprocessing.crop_fraction == 1:
        return preprocessing
    size = round(preprocessing.image_size / preprocessing.crop_fraction)
    return replace(preprocessing, crop_fraction=1.0, image_size=size)


class Augmentation:
    """Random transformations of training images."""

    def __init__(self, config: AugmentationConfig, preprocessing: Preprocessing) -> None:
        self._config = config
        self._preprocessing = preprocessing
        # The evaluation's crop of the whole square; see `uncropped`.
        share = preprocessing.crop_fraction
        self._plain_crop = torch.tensor([0.0, 0.0, share, share])
        self._mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
        self._has_colour = max(config.brightness, config.contrast, config.saturation, config.grey) > 0

    def draw(self, num_images: int, generator: torch.Generator, is_plain: Tensor | None = None) -> Draws:
        """Draw transformations for a batch; images marked in `is_plain` [B] get the evaluation's crop.

        Crops are drawn like torchvision's RandomResizedCrop: area and logarithm of the ratio are uniform; a crop that
        does not fit is cut to the image.
        """
        config = self._config
        uniform = torch.rand(num_images, 10, generator=generator)
        is_kept = uniform[:, 9] < config.plain
        is_kept = is_kept if is_plain is None else is_kept | is_plain
        area = config.crop_area_min + uniform[:, 0] * (config.crop_area_max - config.crop_area_min)
        ratio = torch.exp((2 * uniform[:, 1] - 1) * math.log(config.crop_ratio))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        centre_x = (2 * uniform[:, 2] - 1) * (1 - width)
        centre_y = (2 * uniform[:, 3] - 1) * (1 - height)
        # A negative width is a mirrored crop.
        width = torch.where(uniform[:, 4] < config.flip, -width, width)
        crop = torch.stack([centre_x, centre_y, width, height], dim=1)
        strengths = torch.tensor([config.brightness, config.contrast, config.saturation])
        colour = 1 + (2 * uniform[:, 5:8] - 1) * strengths
        colour[:, 2] = torch.where(uniform[:, 8] < config.grey, 0.0, colour[:, 2])
        crop = torch.where(is_kept[:, None], self._plain_crop, crop)
        colour = torch.where(is_kept[:, None], 1.0, colour)
        return Draws(crop, colour)

    def apply(self, pixels_BHWC: Tensor, draws: Draws) -> Tensor:
        """Transform uint8 images [B, H, W, 3] into the network's normalised input [B, 3, H, W]."""
        device = pixels_BHWC.device
        images = pixels_BHWC.permute(0, 3, 1, 2).float() / 255
        centre_x, centre_y, width, height = draws.crop.to(device, non_blocking=True).unbind(1)
        zero = torch.zeros_like(width)
        matrix = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(-1, 2, 3)
        # A crop is shrunk by crop_fraction at most, so it needs no antialiasing.
        size = self._preprocessing.image_size
        grid = F.affine_grid(matrix, [len(images), 3, size, size], align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if self._has_colour:
            images = _recolour(images, draws.colour.to(device, non_blocking=True))
        if self._mean.device != device:
            self._mean, self._std = self._mean.to(device), self._std.to(device)
        return ((images - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


def _recolour(images: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = (factors[:, number].view(-1, 1, 1, 1) for number in range(3))
    images = images * brightness
    weights = torch.tensor(_GREY, device=images.device).view(1, 3, 1, 1)
    grey = (images * weights).sum(dim=1, keepdim=True)
    images = torch.lerp(grey.mean(dim=(2, 3), keepdim=True).expand_as(images), images, contrast)
    grey = (images * weights).sum(dim=1, keepdim=True)
    return torch.lerp(grey.expand_as(images), images, saturation).clamp(0, 1)
