"""The only module that imports faiss, which is provided by either `faiss-cpu` or `faiss-gpu`."""

import ctypes
import importlib.metadata
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from index.errors import MissingFaiss

_INSTALL = "pip install 'akin[cpu]' (or 'akin[gpu]' for an NVIDIA GPU)"
_CPU_PACKAGE = "faiss-cpu"
_GPU_PACKAGES = ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs")


class FaissIndex(Protocol):
    """The part of `faiss.Index` used in this package; shape legend: N queries, D dimension, K hits."""

    ntotal: int
    d: int

    def search(
        self, x: NDArray[np.float32], k: int, *, params: object = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores [N, K] and rows [N, K], best first; missing rows are -1."""

    def range_search(
        self, x: NDArray[np.float32], thresh: float, *, params: object = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Return limits [N + 1], scores and rows of all rows whose score is above `thresh`."""

    def add(self, x: NDArray[np.float32]) -> None:
        """Append rows."""


@dataclass(frozen=True, slots=True)
class FaissBuild:
    """The installed faiss, and the number of GPUs it can use."""

    version: str
    kind: Literal["cpu", "gpu"]
    num_gpus: int


@cache
def load_faiss() -> ModuleType:
    """Return the module `faiss`.

    Raises MissingFaiss when no faiss package is installed, when both are (they overwrite each other's files), or when
    the installed one does not load.
    """
    gpu_packages = [name for name in _GPU_PACKAGES if _is_installed(name)]
    if gpu_packages and _is_installed(_CPU_PACKAGE):
        raise MissingFaiss(
            f"{_CPU_PACKAGE} and {gpu_packages[0]} are both installed and overwrite each other's files; remove both, "
            f"then install one: pip uninstall {_CPU_PACKAGE} {' '.join(gpu_packages)} && {_INSTALL}"
        )
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingFaiss(f"faiss is not installed; run: {_INSTALL}") from error
    except ImportError as error:
        raise MissingFaiss(f"faiss is installed but does not load ({error}); install it again: {_INSTALL}") from error
    module: ModuleType = faiss
    return module


def faiss_build() -> FaissBuild:
    """Return which faiss is installed; raises MissingFaiss."""
    faiss = load_faiss()
    kind: Literal["cpu", "gpu"] = "gpu" if hasattr(faiss, "StandardGpuResources") else "cpu"
    # Without a driver, faiss aborts the process instead of returning zero devices (facebookresearch/faiss#4251).
    num_gpus = int(faiss.get_num_gpus()) if kind == "gpu" and _has_cuda_driver() else 0
    return FaissBuild(str(faiss.__version__), kind, num_gpus)


def free_gpu_bytes(device_number: int) -> int | None:
    """Return the free memory of a GPU; None if the driver does not tell it."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        device, context, free, total = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), device_number):
            return None
        # The context that faiss and torch use too; releasing it only ends this use of it.
        if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if cuda.cuCtxPushCurrent_v2(context):
                return None
            failed = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
        finally:
            cuda.cuDevicePrimaryCtxRelease_v2(device)
    except (OSError, AttributeError):
        return None
    return None if failed else int(free.value)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _has_cuda_driver() -> bool:
    try:
        return int(ctypes.CDLL("libcuda.so.1").cuInit(0)) == 0
    except (OSError, AttributeError):
        return False
