"""What an Embedder runs: a network on a device, whichever library computes it.

Shape legend: N images, H height, W width, C channels, D embedding dimension.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.errors import UnsupportedDevice

Precision = Literal["float32", "bf16"]
RuntimeName = Literal["auto", "onnxruntime", "torch"]
# "pixels": uint8 [N, H, W, 3], normalised in the network. "normalised": float32 [N, 3, H, W].
NetworkInput = Literal["pixels", "normalised"]

# Each run needs memory for its activations: 15 MB an image for EfficientNet-Lite0.
_MAX_CONCURRENT_RUNS = 8

# Largest accepted 1 - cosine between an embedding and the float32 embedding of the machine that saved the checkpoint.
TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "bf16": 2e-2}


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


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """Where and how a network runs.

    `device` is "cpu", "cuda", "cuda:1", ... or "auto" (CUDA if available). bf16 needs CUDA. The runtime "auto" is ONNX
    Runtime on a CPU, if it is installed, and torch otherwise. Networks that are exported for ONNX Runtime are kept in
    `cache_dir`; without it, each use exports the network again. `num_threads` applies to ONNX Runtime; 0: as many as
    torch uses. `concurrent_runs` share these threads: several runs with one thread each take less CPU time per image
    than one run with several threads, and more time until one image is done (benchmarks/bulk_speed.py).
    """

    device: str = "auto"
    precision: Precision = "float32"
    runtime: RuntimeName = "torch"
    cache_dir: Path | None = None
    num_threads: int = 0
    concurrent_runs: int = 1

    def for_bulk(self) -> "NetworkOptions":
        """Return the options for embedding many images, when the time of a single one does not matter."""
        return replace(self, concurrent_runs=_MAX_CONCURRENT_RUNS)


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
