"""Inputs of the network being trained: images, or precomputed features of a frozen backbone.

Both provide the training inputs of a batch, and embeddings equal to those of the finished model.

Shape legend: B images of a batch, N images, C channels, D embedding dimension.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embedding.embedder import Embedder
from embedding.model import EmbeddingModel, HeadNetwork
from embedding.preprocessing import Preprocessing
from embedding.runtimes.options import NetworkOptions
from training.config import AugmentationConfig
from training.data.augmentation import Augmentation
from training.data.features import Features

_FEATURES_PER_BLOCK = 4096
_IMAGES_PER_BLOCK = 256

# Receives the number of embedded images and of all images.
OnEmbedded = Callable[[int, int], None]


class TrainingInputs(Protocol):
    """The images of a snapshot, by position, as inputs of a network."""

    @property
    def network(self) -> nn.Module:
        """The module that is trained; maps inputs to unit embeddings [B, D]."""

    def batch(
        self, images: NDArray[np.int64], is_plain: NDArray[np.bool_], generator: torch.Generator, rows: slice
    ) -> Tensor:
        """Return the training inputs of `images[rows]` on the device; images marked `is_plain` are not augmented.

        Random numbers are drawn for all of `images`, so that several processes draw the same.
        """

    def embed(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed images [N, D] with the current model, exactly as its checkpoint would."""


class Pixels(Protocol):
    """Decoded images by position, such as an ImageCache."""

    def pixels(self, indices: NDArray[np.int64], *, pin_memory: bool = False) -> Tensor:
        """Return uint8 pixels [B, H, W, 3]."""


class ImageInputs:
    """Decoded images that are augmented on the device, to train the whole network."""

    def __init__(
        self,
        model: EmbeddingModel,
        preprocessing: Preprocessing,
        cache: Pixels,
        evaluation_cache: Pixels,
        augmentation: AugmentationConfig,
        device: torch.device,
        on_embedded: OnEmbedded | None = None,
    ) -> None:
        self._model = model
        self._preprocessing = preprocessing
        self._cache = cache
        self._evaluation_cache = evaluation_cache
        self._augmentation = Augmentation(augmentation, preprocessing)
        self._device = device
        self._on_embedded = on_embedded

    @property
    def network(self) -> nn.Module:
        """The whole model."""
        return self._model

    def batch(
        self, images: NDArray[np.int64], is_plain: NDArray[np.bool_], generator: torch.Generator, rows: slice
    ) -> Tensor:
        """Return augmented, normalised images [B, 3, H, W]."""
        draws = self._augmentation.draw(len(images), generator, torch.from_numpy(is_plain))
        pixels = self._cache.pixels(images[rows], pin_memory=self._device.type == "cuda")
        pixels = pixels.to(self._device, non_blocking=True)
        return self._augmentation.apply(pixels, draws[rows])

    def embed(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed in float32 with the `Embedder` that indexing and requests use."""
        embedder = Embedder(self._model, self._preprocessing, NetworkOptions(str(self._device)))
        return embed_cached(embedder, self._evaluation_cache, images, self._on_embedded)


def embed_cached(
    embedder: Embedder, cache: Pixels, images: NDArray[np.int64], on_embedded: OnEmbedded | None = None
) -> NDArray[np.float32]:
    """Embed cached images [N, D] in blocks, so that a memory-mapped cache is never loaded as a whole."""
    embeddings = np.empty((len(images), embedder.embedding_dim), np.float32)
    for start in range(0, len(images), _IMAGES_PER_BLOCK):
        block = slice(start, start + _IMAGES_PER_BLOCK)
        embeddings[block] = embedder.embed_pixels(cache.pixels(images[block]).numpy())
        if on_embedded is not None:
            on_embedded(min(block.stop, len(images)), len(images))
    return embeddings


class FeatureInputs:
    """Precomputed features of a frozen backbone: view 0 is the image itself, the others are augmented."""

    def __init__(
        self,
        model: EmbeddingModel,
        features: Features,
        device: torch.device,
        *,
        plain: float = 0.0,
    ) -> None:
        self._plain = plain
        self._network = HeadNetwork(model.head)
        self._num_views = torch.from_numpy(features.num_views)
        self._offsets = torch.from_numpy(features.offsets)
        self._features = features
        # Rows in files are read batch by batch.
        self._rows = features.rows_RC.to(device) if isinstance(features.rows_RC, Tensor) else None
        self._device = device

    @property
    def network(self) -> nn.Module:
        """The head and the normalisation of its output."""
        return self._network

    def batch(
        self, images: NDArray[np.int64], is_plain: NDArray[np.bool_], generator: torch.Generator, rows: slice
    ) -> Tensor:
        """Return features [B, C] of one view per image: view 0 with probability `plain`, else any augmented view.

        Images marked `is_plain` always give view 0. Augmented views are equally likely.
        """
        positions = torch.from_numpy(images)
        uniform = torch.rand(2, len(images), generator=generator)
        num_augmented = self._num_views[positions] - 1
        views = 1 + (uniform[0] * num_augmented).long()
        is_plain_B = torch.from_numpy(is_plain) | (uniform[1] < self._plain) | (num_augmented == 0)
        views = torch.where(is_plain_B, 0, views)
        return self._take((self._offsets[positions] + views)[rows])

    @torch.inference_mode()
    def embed(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed view 0, which equals embedding the image, since the backbone does not change."""
        parts = []
        for start in range(0, len(images), _FEATURES_PER_BLOCK):
            block = torch.from_numpy(images[start : start + _FEATURES_PER_BLOCK])
            parts.append(self._network(self._take(self._offsets[block])).float().cpu())
        embeddings: NDArray[np.float32] = torch.cat(parts).numpy()
        return embeddings

    def _take(self, rows: Tensor) -> Tensor:
        """Return rows of the features on the device [n, C]."""
        if self._rows is None:
            return self._features.take(rows.numpy()).to(self._device)
        return self._rows[rows.to(self._device)]
