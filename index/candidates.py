"""Candidates of a search: from all rows, or from the nearest lists of an IVF structure.

The scores of candidates are approximate: float32 sums whose last bits depend on how the work was split, or products
with compressed rows. `index.row_search` computes exact scores.
Shape legend: N queries or rows, D embedding dimension, M candidates.
"""

from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from index.faiss_library import FaissIndex, load_faiss
from index.storage import pieces

Scores = NDArray[np.float32]
Rows = NDArray[np.int64]

# Upper bound of the difference between two float32 inner products of the same unit vectors, computed in different
# orders. Measured at 1280 dimensions: 5e-7 where all products have one sign, 1e-7 otherwise.
CPU_NOISE = 2e-6


class Candidates(Protocol):
    """Rows that may be near a query. A search visits `nprobe` of `num_lists` lists of rows."""

    @property
    def num_lists(self) -> int:
        """Number of lists that the rows are divided into."""

    @property
    def nprobe(self) -> int:
        """Default number of lists that a query visits."""

    @property
    def noise(self) -> float:
        """Largest difference between two computations of the same score."""

    def nearest(self, queries_ND: NDArray[np.float32], num_candidates: int, nprobe: int, /) -> tuple[Scores, Rows]:
        """Return scores and rows [N, M], best first; rows are -1 where the lists contain fewer than M."""

    def above(self, query_D: NDArray[np.float32], score: float, nprobe: int, /) -> Rows:
        """Return all rows in the visited lists whose score is above `score`, in any order."""


class ExactCandidates:
    """Compares every query with every row; the memory-mapped rows form one list and are not copied."""

    num_lists = 1
    nprobe = 1
    noise = CPU_NOISE

    def __init__(self, embeddings_ND: NDArray[np.float32]) -> None:
        self._embeddings_ND = embeddings_ND
        self._faiss = load_faiss()

    def nearest(self, queries_ND: NDArray[np.float32], num_candidates: int, _nprobe: int, /) -> tuple[Scores, Rows]:
        """Return the nearest rows."""
        if len(queries_ND) > 1:
            return self._knn(queries_ND, num_candidates)
        # With several threads, faiss needs 3 times the CPU time for one query, and under load 3 times the wall time
        # (50,000 × 1280 on 2 cores: 42 ms, 14 ms with one thread). The setting applies to the calling thread only.
        num_threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            return self._knn(queries_ND, num_candidates)
        finally:
            self._faiss.omp_set_num_threads(num_threads)

    def above(self, query_D: NDArray[np.float32], score: float, _nprobe: int, /) -> Rows:
        """Return all rows above a score, in one pass; faiss would keep a heap as large as the result."""
        found = [
            np.flatnonzero(self._embeddings_ND[part] @ query_D > score) + part.start
            for part in pieces(len(self._embeddings_ND))
        ]
        return np.concatenate(found).astype(np.int64)

    def _knn(self, queries_ND: NDArray[np.float32], num_candidates: int) -> tuple[Scores, Rows]:
        found = self._faiss.knn(queries_ND, self._embeddings_ND, num_candidates, self._faiss.METRIC_INNER_PRODUCT)
        return cast(tuple[Scores, Rows], found)


class IVFCandidates:
    """Searches the lists whose centroids are nearest to the query."""

    noise = CPU_NOISE

    def __init__(self, ivf: FaissIndex, *, num_lists: int, nprobe: int) -> None:
        self.ivf = ivf
        self.num_lists = num_lists
        self.nprobe = nprobe
        self._faiss = load_faiss()

    def nearest(self, queries_ND: NDArray[np.float32], num_candidates: int, nprobe: int, /) -> tuple[Scores, Rows]:
        """Return the nearest rows of the visited lists."""
        return self.ivf.search(queries_ND, num_candidates, params=self._parameters(nprobe))

    def above(self, query_D: NDArray[np.float32], score: float, nprobe: int, /) -> Rows:
        """Return all rows of the visited lists above a score."""
        _, _, rows = self.ivf.range_search(query_D[None], score, params=self._parameters(nprobe))
        return rows

    def _parameters(self, nprobe: int) -> object:
        # Passed with each call, since setting nprobe on the index would change the searches of other threads.
        return cast(object, self._faiss.SearchParametersIVF(nprobe=nprobe))


def open_ivf(path: Path) -> FaissIndex:
    """Memory-map a structure file read-only; raises RuntimeError when it is not an IVF structure."""
    faiss = load_faiss()
    ivf = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    if not isinstance(ivf, faiss.IndexIVF):
        raise RuntimeError(f"{path} holds a {type(ivf).__name__}, not an IVF structure")
    lists = faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        # By default each search starts up to 32 threads to read ahead, which takes 20 times as long as the search.
        lists.prefetch_nthread = 0
    return cast(FaissIndex, ivf)
