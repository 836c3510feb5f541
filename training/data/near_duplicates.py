"""Near-duplicates: images that differ only in size, format or compression.

Two images are near-duplicates if their 16 × 16 colour thumbnails agree in structure (correlation of grey values), in
colour (mean difference) and everywhere (largest difference: two flavours in the same packaging differ in one place
only). Candidates come from a tiled product of 8 × 8 grey thumbnails, so that 10,000 images take seconds and memory does
not grow quadratically. Correlation is used instead of a difference hash, whose bits are noise on the plain background
of product photos.

Images with hardly any structure (a single colour, a blank page) are never near-duplicates.

Shape legend: N images, P pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.data.image_cache import ImageCache
from training.data.snapshot import Progress

_FINE, _COARSE = 16, 8
_MIN_COARSE_CORRELATION = 0.98
_MIN_CORRELATION = 0.99
# Of 255. A copy at half the size and JPEG quality 30 stays below 5 and mostly below 30; flavours differ by 45 and more.
_MAX_MEAN_DIFFERENCE = 6.0
_MAX_DIFFERENCE = 32.0
# Standard deviation of the grey values below which an image has no structure to compare.
_MIN_CONTRAST = 4.0
_TILE = 2048
_PAIRS_AT_ONCE = 16_384
_MAX_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Thumbnails of images for comparison."""

    colours: Tensor  # uint8 [N, 768]
    grey: Tensor  # float32 [N, 256], mean 0 and length 1; zeros for an image without structure
    coarse: Tensor  # float32 [N, 64], the same of 8 × 8 values

    def of(self, images: NDArray[np.int64]) -> "Thumbnails":
        """Return the thumbnails of some images."""
        rows = torch.from_numpy(images)
        return Thumbnails(self.colours[rows], self.grey[rows], self.coarse[rows])


def thumbnails_of(cache: ImageCache) -> Thumbnails:
    """Shrink the images of a cache in blocks; unreadable images get thumbnails without structure."""
    colours = torch.zeros((len(cache), 3 * _FINE * _FINE), dtype=torch.uint8)
    grey, coarse = torch.zeros(len(cache), _FINE**2), torch.zeros(len(cache), _COARSE**2)
    # The float copy of a block takes four times the memory of its pixels.
    block = max(1, _MAX_BLOCK_BYTES // (4 * 3 * cache.size**2))
    for start in range(0, len(cache), block):
        rows = slice(start, min(start + block, len(cache)))
        pixels_NCHW = cache.pixels(np.arange(rows.start, rows.stop)).permute(0, 3, 1, 2).float()
        small_NCHW = F.adaptive_avg_pool2d(pixels_NCHW, _FINE)
        colours[rows] = small_NCHW.round().to(torch.uint8).flatten(1)
        grey_NHW = colours[rows].view(-1, 3, _FINE, _FINE).float().mean(dim=1)
        coarse_NHW = F.avg_pool2d(grey_NHW.unsqueeze(1), _FINE // _COARSE)
        grey[rows], coarse[rows] = _standardised(grey_NHW.flatten(1)), _standardised(coarse_NHW.flatten(1))
    return Thumbnails(colours, grey, coarse)


def near_duplicate_pairs(thumbnails: Thumbnails, on_progress: Progress | None = None) -> NDArray[np.int64]:
    """Return the pairs of near-duplicates, int64 [P, 2], each once with the smaller position first.

    The time grows with the square of the images: a minute for 100,000. `on_progress` receives (images compared with
    all others, all images), and may raise.
    """
    found = [
        pairs[_is_alike(thumbnails, pairs)]
        for candidates in _candidates(thumbnails.coarse, on_progress)
        for pairs in torch.split(candidates, _PAIRS_AT_ONCE)
    ]
    pairs_P2: NDArray[np.int64] = torch.cat(found).numpy() if found else np.zeros((0, 2), np.int64)
    return pairs_P2


def _standardised(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=1, keepdim=True)
    is_plain = centred.square().mean(dim=1, keepdim=True).sqrt() < _MIN_CONTRAST
    return F.normalize(centred, dim=1).masked_fill(is_plain, 0)


def _candidates(coarse: Tensor, on_progress: Progress | None) -> Iterator[Tensor]:
    """Yield the pairs with similar coarse thumbnails, int64 [P, 2], tile by tile above the diagonal."""
    for start in range(0, len(coarse), _TILE):
        rows = coarse[start : start + _TILE]
        for column in range(start, len(coarse), _TILE):
            is_alike = rows @ coarse[column : column + _TILE].T > _MIN_COARSE_CORRELATION
            if column == start:
                is_alike = is_alike.triu(diagonal=1)
            if len(pairs := is_alike.nonzero()):
                yield pairs + torch.tensor([start, column])
        if on_progress is not None:
            on_progress(start + len(rows), len(coarse))


def _is_alike(thumbnails: Thumbnails, pairs: Tensor) -> Tensor:
    first, second = pairs.unbind(dim=1)
    correlation = (thumbnails.grey[first] * thumbnails.grey[second]).sum(dim=1)
    difference = (thumbnails.colours[first].float() - thumbnails.colours[second].float()).abs()
    is_near = (difference.mean(dim=1) < _MAX_MEAN_DIFFERENCE) & (difference.amax(dim=1) < _MAX_DIFFERENCE)
    return is_near & (correlation > _MIN_CORRELATION)
