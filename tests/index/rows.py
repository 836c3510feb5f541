"""Rows and indexes for the tests of the index; shape legend: N rows, D dimension, K hits."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from index.indexer import IndexEntry, build_index
from index.row_search import Hits
from index.structures import IndexOptions
from index.vector_index import VectorIndex

SPACE = "space-of-tests"


def unit(rows: ArrayLike) -> NDArray[np.float32]:
    """Scale rows to length 1."""
    rows_ND = np.asarray(rows, np.float64)
    unit_ND: NDArray[np.float64] = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return unit_ND.astype(np.float32)


def random_rows(num_rows: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Return rows without clusters."""
    return unit(np.random.default_rng(seed).standard_normal((num_rows, dim)))


def clustered_rows(num_rows: int, dim: int, num_clusters: int, seed: int = 0) -> NDArray[np.float32]:
    """Return rows around random centres, like embeddings of products."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((num_clusters, dim))
    noise = 0.5 * generator.standard_normal((num_rows, dim))
    return unit(centres[generator.integers(0, num_clusters, num_rows)] + noise)


def entries_for(num_rows: int, images_per_product: int = 1) -> list[IndexEntry]:
    """Return entries whose image ids sort in row order."""
    return [
        IndexEntry(f"image-{row:07d}", f"product-{row // images_per_product:07d}", {"row": row})
        for row in range(num_rows)
    ]


def index_over(
    directory: Path, embeddings_ND: NDArray[np.float32], *, images_per_product: int = 1, **options
) -> VectorIndex:
    """Build and load an index on the CPU, with the entries of `entries_for`."""
    return index_of(directory, entries_for(len(embeddings_ND), images_per_product), embeddings_ND, **options)


def index_of(
    directory: Path, entries: Sequence[IndexEntry], embeddings_ND: NDArray[np.float32], **options
) -> VectorIndex:
    """Build and load an index on the CPU."""
    build_index(directory, entries, embeddings_ND, space_id=SPACE, options=IndexOptions(device="cpu", **options))
    return VectorIndex.load(directory, device="cpu")


def brute_force(embeddings_ND: NDArray[np.float32], queries_ND: NDArray[np.float32], k: int) -> Hits:
    """Return the result of an exact search, computed naively."""
    scores_NK = np.full((len(queries_ND), k), -np.inf, np.float32)
    rows_NK = np.full((len(queries_ND), k), -1, np.int64)
    for number, query in enumerate(queries_ND):
        scores = (embeddings_ND.astype(np.float64) * query).sum(axis=1).astype(np.float32)
        best = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
        scores_NK[number, : len(best)], rows_NK[number, : len(best)] = scores[best], best
    return Hits(scores_NK, rows_NK)


def assert_same_hits(actual: Hits, expected: Hits) -> None:
    """Assert that hits are equal bit by bit."""
    np.testing.assert_array_equal(actual.rows, expected.rows)
    np.testing.assert_array_equal(actual.scores, expected.scores)
    assert actual.scores.dtype == np.float32
    assert actual.rows.dtype == np.int64


def in_threads(function: Callable[[int], object], num_calls: int, num_threads: int = 8) -> Sequence[object]:
    """Call `function(0..num_calls-1)` from several threads that start together; return the results in order."""
    start = threading.Barrier(num_threads)

    def wait_then_call(number: int) -> object:
        if number < num_threads:
            start.wait()
        return function(number)

    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(wait_then_call, range(num_calls)))
