"""Copies of an index on a GPU, searched one call at a time.

The memory-mapped index on the CPU is kept: it handles what faiss cannot do on a GPU (more than 2048 candidates or
lists, all rows above a score) and provides the exact scores. While a server switches releases, the copies of both
indexes lie on the GPU, so the free memory is compared with the size of a copy before it is made.
Shape legend: N queries, D embedding dimension, M candidates.
"""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from index.candidates import Candidates, ExactCandidates, IVFCandidates, Rows, Scores
from index.errors import GPUMemoryFull, InvalidIndex, UnsupportedDevice
from index.facts import IndexFacts
from index.faiss_library import FaissIndex, faiss_build, free_gpu_bytes, load_faiss
from index.storage import read_index_facts
from index.structures import DeviceChoice

log = logging.getLogger(__name__)

# Limit of faiss on the candidates, and on the lists, of one search on a GPU.
_MAX_SELECTED = 2048
# A GPU adds in other orders than a CPU.
_GPU_NOISE = 1e-5
# By default faiss reserves 1.5 GB of GPU memory, which the network may need.
_TEMPORARY_BYTES = 256 * 2**20
_DEVICE_NUMBER = 0
# faiss pads each list of an IVF structure to a multiple of this many rows.
_ROWS_PER_GROUP = 32
_ID_BYTES = 8


class GPUCandidates:
    """Candidates from a copy of the index on a GPU; `on_cpu` is the same index, for what a GPU cannot do."""

    def __init__(self, gpu_index: FaissIndex, resources: object, on_cpu: Candidates) -> None:
        self.num_lists = on_cpu.num_lists
        self.nprobe = on_cpu.nprobe
        self.noise = _GPU_NOISE
        self._gpu_index = gpu_index
        self._resources = resources  # must outlive the index
        self._on_cpu = on_cpu
        # The resources (streams, temporary memory) allow one search at a time.
        self._lock = threading.Lock()
        self._faiss = load_faiss()

    def nearest(self, queries_ND: NDArray[np.float32], num_candidates: int, nprobe: int, /) -> tuple[Scores, Rows]:
        """Return the nearest rows of the visited lists."""
        if max(num_candidates, nprobe) > _MAX_SELECTED:
            return self._on_cpu.nearest(queries_ND, num_candidates, nprobe)
        parameters = None if self.num_lists == 1 else self._faiss.SearchParametersIVF(nprobe=nprobe)
        with self._lock:
            return self._gpu_index.search(queries_ND, num_candidates, params=parameters)

    def above(self, query_D: NDArray[np.float32], score: float, nprobe: int, /) -> Rows:
        """Return all rows above a score, computed on the CPU."""
        return self._on_cpu.above(query_D, score, nprobe)


def wants_gpu(device: str) -> bool:
    """Tell whether `device` ("auto", "cpu" or "cuda") selects a GPU on this machine; raises UnsupportedDevice."""
    if device not in get_args(DeviceChoice):
        raise UnsupportedDevice(f"unknown device {device!r} for the index; use {', '.join(get_args(DeviceChoice))}")
    if device == "cpu":
        return False
    build = faiss_build()
    if device == "cuda" and build.kind == "cpu":
        raise UnsupportedDevice(
            "device 'cuda' for the index needs faiss-gpu, but faiss-cpu is installed; "
            "run: pip uninstall faiss-cpu && pip install 'akin[gpu]'"
        )
    if device == "cuda" and not build.num_gpus:
        raise UnsupportedDevice(
            "device 'cuda' for the index is not available: faiss-gpu finds no GPU or no driver; use auto or cpu"
        )
    return build.num_gpus > 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an index is searched; `fallback` says why it is not the GPU although the device "auto" allows that."""

    candidates: Candidates
    is_on_gpu: bool = False
    fallback: str | None = None


def place(
    candidates: ExactCandidates | IVFCandidates, embeddings_ND: NDArray[np.float32], facts: IndexFacts, device: str
) -> Placement:
    """Copy an index to the GPU if `device` selects one.

    With "auto", an index that does not fit stays on the CPU with a warning and a reason. With "cuda", raises
    GPUMemoryFull, or UnsupportedDevice if faiss cannot copy it.
    """
    if not wants_gpu(device):
        return Placement(candidates)
    try:
        _require_memory(facts)
        return Placement(_copy_to_gpu(candidates, embeddings_ND), is_on_gpu=True)
    except GPUMemoryFull as error:
        reason = str(error)
        if device == "cuda":
            raise
    except RuntimeError as error:  # the only error that faiss raises, also when GPU memory is full
        reason = f"the index cannot be copied to the GPU: {error}"
        if device == "cuda":
            raise UnsupportedDevice(reason) from error
    log.warning("the index is searched on the CPU: %s", reason)
    return Placement(candidates, fallback=reason)


def require_gpu_memory(directory: Path, device: str) -> None:
    """Raise GPUMemoryFull if `device` is "cuda" and the index in a directory does not fit; reads only its manifest."""
    if device == "cuda" and wants_gpu(device):
        try:
            facts = read_index_facts(directory, verify=False)
        except InvalidIndex:
            return  # loading reports it
        _require_memory(facts)


def gpu_bytes(facts: IndexFacts) -> int:
    """Return how much memory a copy of an index takes on a GPU, including the temporary memory of its searches."""
    structure, dim = facts.structure, facts.embedding_dim
    code_bytes = dim * {"float32": 4, "float16": 2, "sq8": 1}[structure.storage]
    if structure.name == "exact":
        return facts.num_rows * code_bytes + _TEMPORARY_BYTES
    row_bytes = code_bytes + _ID_BYTES
    # On average each list is padded by half a group.
    padding_bytes = structure.nlist * (_ROWS_PER_GROUP // 2) * row_bytes
    return facts.num_rows * row_bytes + padding_bytes + structure.nlist * dim * 4 + _TEMPORARY_BYTES


def _require_memory(facts: IndexFacts) -> None:
    """Raise GPUMemoryFull if a copy does not fit; if the driver does not tell the free memory, faiss finds out."""
    needed, free = gpu_bytes(facts), free_gpu_bytes(_DEVICE_NUMBER)
    if free is not None and needed > free:
        raise GPUMemoryFull(
            f"the index ({facts.structure.name}, {facts.num_rows:,} rows) needs {_gib(needed)} of memory on the GPU, "
            f"and {_gib(free)} are free (while a server switches releases, the previous index is on the GPU too); "
            "restart the server, build an 'ivf' index with storage 'sq8', or use the device auto or cpu for the index"
        )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def clustering_index_on(device: str, embedding_dim: int) -> FaissIndex | None:
    """Return an empty exact index on the GPU for k-means, or None if `device` selects the CPU."""
    return _flat_index(_resources(), embedding_dim) if wants_gpu(device) else None


def _copy_to_gpu(candidates: ExactCandidates | IVFCandidates, embeddings_ND: NDArray[np.float32]) -> GPUCandidates:
    faiss, resources = load_faiss(), _resources()
    if isinstance(candidates, IVFCandidates):
        options = faiss.GpuClonerOptions()
        # The default in builds with cuVS, which does not support scalar quantisers.
        options.use_cuvs = False
        gpu_index = faiss.index_cpu_to_gpu(resources, _DEVICE_NUMBER, candidates.ivf, options)
    else:
        gpu_index = _flat_index(resources, embeddings_ND.shape[1])
        gpu_index.add(embeddings_ND)
    return GPUCandidates(gpu_index, resources, candidates)


def _flat_index(resources: object, embedding_dim: int) -> FaissIndex:
    faiss = load_faiss()
    config = faiss.GpuIndexFlatConfig()
    config.device = _DEVICE_NUMBER
    config.use_cuvs = False
    return cast(FaissIndex, faiss.GpuIndexFlatIP(resources, embedding_dim, config))


def _resources() -> object:
    resources = load_faiss().StandardGpuResources()
    resources.setTempMemory(_TEMPORARY_BYTES)
    return cast(object, resources)
