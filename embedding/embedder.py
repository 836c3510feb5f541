"""Images to embeddings on a device, shared by training's validation, indexing and requests."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from embedding.artifact import canonical_json
from embedding.model import EmbeddingModel
from embedding.preprocessing import Preprocessing
from embedding.runtimes.choice import create_network
from embedding.runtimes.exported import NetworkToExport
from embedding.runtimes.options import NetworkOptions, Precision


class ImageEmbedder(Protocol):
    """Turns images into unit vectors of one embedding space."""

    @property
    def space_id(self) -> str:
        """Id of the embedding space; only embeddings with equal ids can be compared."""

    @property
    def embedding_dim(self) -> int:
        """Length of each embedding."""

    @property
    def batch_size(self) -> int:
        """The number of images up to which a larger batch costs less per image."""

    @property
    def runtime(self) -> str:
        """The library that runs the network, with its version."""

    @property
    def runtime_reason(self) -> str:
        """Why this library was chosen."""

    @property
    def concurrent_runs(self) -> int:
        """How many threads should run `embed_pixels` at once in bulk work; 0: only the thread that consumes."""

    def to_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Prepare one RGB image as [H, W, 3], without the device; safe in any thread."""

    def embed_pixels(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed prepared images [N, H, W, 3]; call it from one thread at a time."""


def embed(embedder: ImageEmbedder, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Embed RGB images: float32 [N, D] with rows of L2 norm 1, in the order of `images`."""
    if not images:
        return np.zeros((0, embedder.embedding_dim), np.float32)
    return embedder.embed_pixels(np.stack([embedder.to_pixels(image) for image in images]))


class Embedder:
    """A model with the network that runs it.

    Embeddings are float32 with either precision. `exported` is a file of the network exported before, for example in a
    release. Raises UnsupportedDevice, UnsupportedRuntime and ExportFailed, see `create_network`.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        preprocessing: Preprocessing,
        options: NetworkOptions | None = None,
        *,
        batch_size: int | None = None,
        exported: Path | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        options = options or NetworkOptions()
        self.precision: Precision = options.precision
        self.preprocessing = preprocessing
        self.architecture = model.architecture
        self.embedding_dim = model.embedding_dim
        self.space_id = space_id_of(model, preprocessing)
        wanted = NetworkToExport(model, preprocessing, self.space_id)
        self._network = create_network(wanted, options, exported=exported)
        self.batch_size = batch_size or self._network.batch_size

    @property
    def device(self) -> torch.device:
        """The device that runs the network."""
        return self._network.device

    @property
    def runtime(self) -> str:
        """The library that runs the network, with its version."""
        return self._network.runtime

    @property
    def concurrent_runs(self) -> int:
        """How many threads should run `embed_pixels` at once in bulk work; 0: only the thread that consumes."""
        return self._network.concurrent_runs

    @property
    def runtime_reason(self) -> str:
        """Why this library was chosen."""
        return self._network.runtime_reason

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embed RGB images: float32 [N, D] with rows of L2 norm 1, in the order of `images`."""
        return embed(self, images)

    def to_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Crop and resize an RGB image to uint8 pixels [H, W, 3]; safe in any thread."""
        return self.preprocessing.to_pixels(image)

    def embed_pixels(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed prepared images [N, H, W, 3] in batches of at most `batch_size`."""
        embeddings = np.empty((len(pixels_NHWC), self.embedding_dim), np.float32)
        for start in range(0, len(pixels_NHWC), self.batch_size):
            part = slice(start, start + self.batch_size)
            embeddings[part] = self._network.run(pixels_NHWC[part])
        return embeddings


def space_id_of(model: EmbeddingModel, preprocessing: Preprocessing) -> str:
    """Return the id of the embedding space: a hash of architecture, weights and preprocessing (16 hex digits)."""
    digest = hashlib.sha256(canonical_json([model.architecture.to_json(), preprocessing.to_json()]))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
