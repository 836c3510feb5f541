"""The recall of an index against exact search: `ann_recall`.

Shape legend: N queries, D embedding dimension, K hits.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from index.candidates import CPU_NOISE
from index.errors import LowRecall
from index.facts import AnnRecall
from index.row_search import Hits
from index.storage import pieces
from index.structures import IndexOptions, Structure

log = logging.getLogger(__name__)

# Queries are photos, not stored images: like them, a query with this cosine to a row lies between rows.
QUERY_COSINE = 0.9
# Real queries are harder than the measured ones, so nprobe is never chosen below this value.
_MIN_NPROBE = 4
# The recall at the chosen nprobe must exceed the threshold by this share of the distance to 1, so that other queries
# reach the threshold too.
_HEADROOM = 0.4


class RankedRows(Protocol):
    """Searchable rows: a VectorIndex, or one that is being built."""

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The stored rows."""

    def search(self, queries_ND: NDArray[np.float32], k: int) -> Hits:
        """Return the `k` nearest rows."""


def measure_ann_recall(index: RankedRows, k: int = 10, num_queries: int = 500, seed: int = 0) -> float:
    """Return the mean share, within 0..1, of the exact `k` nearest rows that the index finds.

    Queries are rows of the index with added noise (cosine about 0.9). A hit counts if its score reaches that of the
    exact k-th row, so that duplicates of an image are interchangeable. The recall of an empty index is 1.
    """
    if len(index.embeddings) == 0:
        return 1.0
    return RecallSample.draw(index.embeddings, k, num_queries, seed).recall_of(index)


@dataclass(frozen=True, slots=True)
class RecallSample:
    """Queries [N, D], and for each the score [N] of its exact k-th nearest row."""

    queries: NDArray[np.float32]
    kth_scores: NDArray[np.float32]
    k: int

    @classmethod
    def draw(cls, embeddings_ND: NDArray[np.float32], k: int, num_queries: int, seed: int) -> Self:
        """Draw queries and compare them with all rows, piece by piece."""
        num_rows, embedding_dim = embeddings_ND.shape
        k = min(k, num_rows)
        generator = np.random.default_rng(seed)
        rows_ND = embeddings_ND[np.sort(generator.integers(0, num_rows, num_queries))]
        # Random noise is almost orthogonal to the row; with this length it gives the wanted cosine.
        length = math.sqrt(1 / QUERY_COSINE**2 - 1)
        noise_ND = generator.standard_normal(rows_ND.shape, np.float32) * (length / math.sqrt(embedding_dim))
        queries_ND = rows_ND + noise_ND
        queries_ND /= np.linalg.norm(queries_ND, axis=1, keepdims=True)
        best_NK = np.full((num_queries, k), -np.inf, np.float32)
        for part in pieces(num_rows):
            scores = np.concatenate([best_NK, queries_ND @ embeddings_ND[part].T], axis=1)
            best_NK = np.partition(scores, -k, axis=1)[:, -k:]
        return cls(queries_ND, best_NK.min(axis=1), k)

    def recall_of(self, index: RankedRows) -> float:
        """Return the share of the exact nearest rows that the index finds, within 0..1."""
        hits = index.search(self.queries, self.k)
        return float(np.mean(hits.scores >= self.kth_scores[:, None] - CPU_NOISE))


def choose_nprobe(
    embeddings_ND: NDArray[np.float32],
    index_with: Callable[[int], RankedRows],
    structure: Structure,
    options: IndexOptions,
    *,
    num_queries: int = 500,
) -> int:
    """Return the smallest nprobe, doubling up to `nlist`, whose recall exceeds the threshold by a margin."""
    threshold = options.min_ann_recall
    target = threshold + _HEADROOM * (1 - threshold)
    # Other queries than those of the final measurement, which would otherwise be biased towards this choice.
    sample = RecallSample.draw(embeddings_ND, options.recall_k, num_queries, options.seed + 1)
    nprobe = min(_MIN_NPROBE, structure.nlist)
    while nprobe < structure.nlist:
        recall = sample.recall_of(index_with(nprobe))
        log.info("nprobe %d of %d: ann_recall@%d %.4f", nprobe, structure.nlist, options.recall_k, recall)
        if recall >= target:
            break
        nprobe = min(2 * nprobe, structure.nlist)
    return nprobe


def require_ann_recall(
    index: RankedRows, structure: Structure, options: IndexOptions, *, num_queries: int = 500
) -> AnnRecall:
    """Measure the recall of an index that is being built; below the threshold raises LowRecall with remedies."""
    k, threshold = options.recall_k, options.min_ann_recall
    value = measure_ann_recall(index, k, num_queries, options.seed)
    if value < threshold:
        remedies = [f"raise nprobe (now {structure.nprobe}) or rescore (now {structure.rescore})"]
        remedies.append(f"choose another nlist (now {structure.nlist})")
        if structure.storage == "sq8":
            remedies.append("use storage 'float16' instead of 'sq8'")
        remedies.append("use structure 'exact'")
        raise LowRecall(
            f"ann_recall@{k} is {value:.4f}, below the threshold {threshold:g} (measured with {num_queries} queries); "
            f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
        )
    return AnnRecall(k, value, num_queries, threshold)
