"""Images to embeddings on a device, shared by training's validation, indexing and requests."""

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from embedding.artifact import canonical_json
from embedding.errors import UnsupportedDevice
from embedding.model import EmbeddingModel
from embedding.preprocessing import Preprocessing

Precision = Literal["float32", "bf16"]

# Largest accepted 1 - cosine between an embedding and the float32 embedding of the machine that saved the checkpoint.
TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "bf16": 2e-2}

# On a CPU the activations of larger batches do not fit in the cache: a batch of 32 takes more than twice as long per
# image as a batch of 4 (benchmarks/batch_size.py). A GPU needs large batches.
_BATCH_SIZES = {"cpu": 4, "cuda": 64}


class ImageEmbedder(Protocol):
    """Turns images into unit vectors of one embedding space."""

    @property
    def space_id(self) -> str:
        """Id of the embedding space; only embeddings with equal ids can be compared."""

    @property
    def embedding_dim(self) -> int:
        """Length of each embedding."""

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
    """A model on a device, in evaluation mode.

    `device` is "cpu", "cuda", "cuda:1", ... or "auto" (CUDA if available). The precision bf16 needs CUDA; embeddings
    are float32 with either precision. Raises UnsupportedDevice.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        preprocessing: Preprocessing,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        self.device = choose_device(device, precision)
        batch_size = _BATCH_SIZES[self.device.type] if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.precision = precision
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.architecture = model.architecture
        self.embedding_dim = model.embedding_dim
        self.space_id = space_id_of(model, preprocessing)
        # Convolutions on a CPU are 1.7 times as fast with channels_last as with the default layout.
        self._model = model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embed RGB images: float32 [N, D] with rows of L2 norm 1, in the order of `images`."""
        return embed(self, images)

    def to_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Crop and resize an RGB image to uint8 pixels [H, W, 3]; safe in any thread."""
        return self.preprocessing.to_pixels(image)

    @torch.inference_mode()
    def embed_pixels(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed prepared images [N, H, W, 3] in batches of at most `batch_size`."""
        embeddings = np.empty((len(pixels_NHWC), self.embedding_dim), np.float32)
        for start in range(0, len(pixels_NHWC), self.batch_size):
            part = slice(start, start + self.batch_size)
            # Copied, since torch warns about read-only arrays such as those from Pillow.
            batch = torch.from_numpy(np.array(pixels_NHWC[part])).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                outputs = self._model(self.preprocessing.normalise(batch))
            embeddings[part] = outputs.float().cpu().numpy()
        return embeddings


def choose_device(device: str, precision: Precision) -> torch.device:
    """Return the torch device named `device`; "auto" means CUDA if available. Raises UnsupportedDevice."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UnsupportedDevice(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UnsupportedDevice(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UnsupportedDevice(
            f"device {device!r} is not available: torch {torch.__version__} finds {torch.cuda.device_count()} CUDA "
            "devices; use auto, cpu, cuda or cuda:N"
        )
    if precision == "bf16" and chosen.type != "cuda":
        raise UnsupportedDevice("bf16 needs a CUDA device; use precision float32 on the CPU")
    if precision not in TOLERANCES:
        raise UnsupportedDevice(f"unknown precision {precision!r}; use float32 or bf16")
    return chosen


def space_id_of(model: EmbeddingModel, preprocessing: Preprocessing) -> str:
    """Return the id of the embedding space: a hash of architecture, weights and preprocessing (16 hex digits)."""
    digest = hashlib.sha256(canonical_json([model.architecture.to_json(), preprocessing.to_json()]))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
