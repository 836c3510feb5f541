"""Augmentation of whole batches on the device: random resized crop, flip, colour.

A few random numbers per image are drawn on the host, so that a seed gives the same images on every device, and each of
several processes can draw for the whole batch and apply its own share.

Shape legend: B images, H height, W width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from embedding.preprocessing import Preprocessing
from training.config import AugmentationConfig

# Weights of red, green and blue in grey (ITU-R BT.601), as in Pillow.
_GREY = (0.299, 0.587, 0.114)
_NUM_RANDOM = 10  # random numbers per transformation


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
        """Draw transformations for a batch; images marked in `is_plain` [B] get the evaluation's crop."""
        return self._transformations(torch.rand(num_images, _NUM_RANDOM, generator=generator), is_plain)

    def draw_seeded(self, seeds: Sequence[int]) -> Draws:
        """Draw a transformation for each seed, equal to `draw` for one image with a generator of that seed."""
        generator = torch.Generator()
        uniform = torch.empty(len(seeds), _NUM_RANDOM)
        for row, seed in zip(uniform, seeds, strict=True):
            row.uniform_(generator=generator.manual_seed(seed))
        return self._transformations(uniform)

    def _transformations(self, uniform: Tensor, is_plain: Tensor | None = None) -> Draws:
        """Turn random numbers [B, 10] into transformations.

        Crops are distributed as in torchvision's RandomResizedCrop: area and logarithm of the ratio are uniform; a crop
        that does not fit is cut to the image.
        """
        config = self._config
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

    def apply(
        self, pixels_BHWC: Tensor, draws: Draws, memory_format: torch.memory_format = torch.channels_last
    ) -> Tensor:
        """Transform uint8 images [B, H, W, 3] into the network's normalised input [B, 3, H, W].

        A single image is transformed by each of the draws.
        """
        device = pixels_BHWC.device
        # After the sampling every step works in place: new memory costs more time than the arithmetic.
        images = pixels_BHWC.permute(0, 3, 1, 2).float().div_(255).expand(len(draws), -1, -1, -1)
        # A crop is shrunk by crop_fraction at most, so it needs no antialiasing.
        grid = self._grid(draws.crop.to(device, non_blocking=True))
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if self._has_colour:
            _recolour(images, draws.colour.to(device, non_blocking=True))
        if self._mean.device != device:
            self._mean, self._std = self._mean.to(device), self._std.to(device)
        return images.sub_(self._mean).div_(self._std).contiguous(memory_format=memory_format)

    def _grid(self, crop: Tensor) -> Tensor:
        """Return where each pixel of the crops lies in its image [B, H, W, 2].

        It equals F.affine_grid without a rotation, whose product of matrices takes longer than the sampling itself.
        """
        size = self._preprocessing.image_size
        middles = torch.linspace(-1, 1, size, device=crop.device) * (size - 1) / size if size > 1 else crop.new_zeros(1)
        centre_x, centre_y, width, height = crop[:, :, None].unbind(1)
        grid = crop.new_empty(len(crop), size, size, 2)
        grid[..., 0] = (middles * width + centre_x)[:, None, :]
        grid[..., 1] = (middles * height + centre_y)[:, :, None]
        return grid


def _recolour(images: Tensor, factors: Tensor) -> None:
    """Change brightness, contrast and saturation of images [B, 3, H, W] in place."""
    brightness, contrast, saturation = (factors[:, number].view(-1, 1, 1, 1) for number in range(3))
    images.mul_(brightness)
    torch.lerp(_grey(images).mean(dim=(2, 3), keepdim=True).expand_as(images), images, contrast, out=images)
    torch.lerp(_grey(images).expand_as(images), images, saturation, out=images).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return (red * _GREY[0]).add_(green * _GREY[1]).add_(blue * _GREY[2])
