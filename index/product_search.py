"""The k nearest products of a query, each represented by its best row.

Rows are fetched in the order of their scores until they belong to `k` products. That is fast unless many products are
wanted, or a few products own most of the nearest rows. All rows are then compared with the query in one pass.
Shape legend: N rows, D embedding dimension, M candidates, P products.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.candidates import CPU_NOISE, Rows, Scores
from index.row_search import Check, Hits, RowSearch, exact_scores
from index.storage import pieces

# Rows fetched per requested product in the first round; each further round fetches twice as many.
_ROWS_PER_PRODUCT = 4
_MAX_ROUNDS = 3
# More candidates than both numbers take longer to select than one pass over all rows.
_MANY_CANDIDATES = 2**15
_MANY_OF_ROWS = 1 / 32


@dataclass(frozen=True, slots=True)
class ProductHit:
    """A product, represented by its row most similar to the query, with the cosine of that row."""

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class TimedHits:
    """Products, best first, with the seconds spent on searching rows and on grouping them by product."""

    hits: list[ProductHit]
    search_seconds: float
    group_seconds: float


class ProductSearch:
    """Searches the products of one index; thread-safe. `product_numbers` [N] are the dense codes of the rows."""

    def __init__(self, row_search: RowSearch, product_numbers_N: NDArray[np.int32], num_products: int) -> None:
        self._row_search = row_search
        self._product_numbers_N = product_numbers_N
        self._num_products = num_products

    def search(self, query_D: NDArray[np.float32], k: int, min_score: float | None, check: Check) -> TimedHits:
        """Return the `k` nearest products, best first, equal scores in the order of their rows."""
        start = time.perf_counter()
        group_seconds = 0.0
        total_rows = len(self._product_numbers_N)
        num_wanted = min(k, self._num_products)
        num_rows = min(total_rows, _ROWS_PER_PRODUCT * num_wanted)
        for _ in range(_MAX_ROUNDS):
            if self._is_large(num_rows):
                break
            hits = self._row_search.search(query_D[None], num_rows, check=check)
            found_at = time.perf_counter()
            products = self._grouped(hits, num_wanted, min_score)
            end = time.perf_counter()
            group_seconds += end - found_at
            if products is not None:
                return TimedHits(products, end - start - group_seconds, group_seconds)
            num_rows = min(total_rows, 2 * num_rows)
        scores_N = self._scores_of_all(query_D, check)
        scanned_at = time.perf_counter()
        products = self._best_of_all(query_D, scores_N, num_wanted, min_score, check)
        end = time.perf_counter()
        group_seconds += end - scanned_at
        return TimedHits(products, end - start - group_seconds, group_seconds)

    def _is_large(self, num_rows: int) -> bool:
        """Return whether one pass over all rows is faster than fetching `num_rows`."""
        num_candidates = num_rows * self._row_search.rescore
        return num_candidates > max(_MANY_CANDIDATES, _MANY_OF_ROWS * len(self._product_numbers_N))

    def _grouped(self, hits: Hits, num_wanted: int, min_score: float | None) -> list[ProductHit] | None:
        """Return the products of one query's hits, or None if more rows are needed."""
        scores, rows = hits.scores[0], hits.rows[0]
        # The hits are a prefix of the full ranking, so the first row of a product is its best row.
        products, num_found = self._first_of_each_product(scores, rows, num_wanted, min_score)
        has_all = num_found >= num_wanted or len(rows) == len(self._product_numbers_N)
        return products if has_all or (min_score is not None and scores[-1] < min_score) else None

    def _first_of_each_product(
        self, scores_M: Scores, rows_M: Rows, num_wanted: int, min_score: float | None
    ) -> tuple[list[ProductHit], int]:
        """Return the hits of ranked rows, and the number of products among the rows."""
        _, first = np.unique(self._product_numbers_N[rows_M], return_index=True)
        positions = np.sort(first)[:num_wanted]
        if min_score is not None:
            positions = positions[scores_M[positions] >= min_score]
        pairs = zip(rows_M[positions].tolist(), scores_M[positions].tolist(), strict=True)
        return [ProductHit(row, score) for row, score in pairs], len(first)

    def _scores_of_all(self, query_D: NDArray[np.float32], check: Check) -> Scores:
        """Return the score of every row [N], as exact as a float32 sum."""
        embeddings_ND = self._row_search.embeddings
        scores_N = np.empty(len(embeddings_ND), np.float32)
        for part in pieces(len(embeddings_ND)):
            check()
            np.matmul(embeddings_ND[part], query_D, out=scores_N[part])
        return scores_N

    def _best_of_all(
        self, query_D: NDArray[np.float32], scores_N: Scores, num_wanted: int, min_score: float | None, check: Check
    ) -> list[ProductHit]:
        """Return the hits, after scoring again exactly all rows that may be the best of a wanted product."""
        if num_wanted == 0:
            return []
        best_P = np.full(self._num_products, -np.inf, np.float32)
        # Piece by piece: this function of numpy does not let other threads run.
        for part in pieces(len(scores_N)):
            np.maximum.at(best_P, self._product_numbers_N[part], scores_N[part])
        # Either of two scores that are compared may deviate by the noise.
        margin = np.float32(2 * CPU_NOISE)
        lowest = np.partition(best_P, -num_wanted)[-num_wanted] - margin
        if min_score is not None:
            lowest = max(lowest, np.float32(min_score) - margin)
        may_be_hit_N = (scores_N >= lowest) & (scores_N >= best_P[self._product_numbers_N] - margin)
        rows_M = np.flatnonzero(may_be_hit_N)
        exact_M = exact_scores(self._row_search.embeddings, rows_M, query_D, check=check)
        ranked = np.lexsort((rows_M, -exact_M))
        return self._first_of_each_product(exact_M[ranked], rows_M[ranked], num_wanted, min_score)[0]
