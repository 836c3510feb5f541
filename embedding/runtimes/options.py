"""Where and how networks run. Imports no torch: settings are read by commands that run no network."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Precision = Literal["float32", "bf16"]
RuntimeName = Literal["auto", "onnxruntime", "torch"]
# "pixels": uint8 [N, H, W, 3], normalised in the network. "normalised": float32 [N, 3, H, W].
NetworkInput = Literal["pixels", "normalised"]

# Each run needs memory for its activations: 15 MB an image for EfficientNet-Lite0.
_MAX_CONCURRENT_RUNS = 8

# Largest accepted 1 - cosine between an embedding and the float32 embedding of the machine that saved the checkpoint.
TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "bf16": 2e-2}


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
