"""What an Embedder runs: a network on a device, whichever library computes it.

Shape legend: N images, H height, W width, C channels, D embedding dimension.
"""

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.errors import UnsupportedDevice
from embedding.runtimes.options import TOLERANCES, Precision


class Network(Protocol):
    """A network on a device; call it from one thread at a time, or from `concurrent_runs`."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""

    @property
    def runtime(self) -> str:
        """The library that computes, with its version: "torch 2.13.0" or "onnxruntime 1.32.0"."""

    @property
    def runtime_reason(self) -> str:
        """Why this library was chosen."""

    @property
    def batch_size(self) -> int:
        """The number of images up to which a larger batch costs less per image."""

    @property
    def concurrent_runs(self) -> int:
        """How many threads should run the network at once in bulk work; 0: only the thread that consumes."""

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the embeddings [N, D] of a batch in the form that the network takes."""


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
