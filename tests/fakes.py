"""Stand-ins for what is slow or far away."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


class MeanColourEmbedder:
    """An embedder without a network: the direction of an image's mean colour."""

    space_id = "mean-colour"
    embedding_dim = 4
    batch_size = 4
    runtime = "numpy"
    runtime_reason = "no network"
    concurrent_runs = 1

    def to_pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Shrink an RGB image to [8, 8, 3]."""
        return np.asarray(image.resize((8, 8), Image.Resampling.BOX))

    def embed_pixels(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return unit vectors along (red, green, blue, a small constant, which black needs)."""
        means_NC = pixels_NHWC.reshape(len(pixels_NHWC), -1, 3).mean(axis=1) / 255
        colours_ND = np.concatenate([means_NC, np.full((len(means_NC), 1), 0.1)], axis=1)
        unit_ND: NDArray[np.float64] = colours_ND / np.linalg.norm(colours_ND, axis=1, keepdims=True)
        return unit_ND.astype(np.float32)
