"""The k nearest rows with exact scores and deterministic order of ties.

Candidates have approximate scores. Their scores are computed again from the stored rows, in float64 and in an order of
additions that depends only on the dimension, so that equal embeddings have equal scores in every batch and on every
device. If the candidates end within a tie, the rest of the tie is fetched.
Shape legend: N queries or rows, D embedding dimension, K hits, M candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.candidates import Candidates, Rows, Scores

# Called between the parts of a long search; raises an exception to end the search early.
Check = Callable[[], None]

# Additional candidates, so that the end of the list rarely lies within a tie.
_MARGIN = 16
# Bounds on memory: the candidates of a block of queries, and the rows scored in float64.
_CANDIDATES_PER_BLOCK = 2**21
_ROWS_PER_PIECE = 1024


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest rows of each query, best first: `scores` [N, K] (cosine) and `rows` [N, K].

    Equal scores are ordered by row. If there are fewer than K rows, scores are padded with -inf and rows with -1.
    """

    scores: Scores
    rows: Rows


class RowSearch:
    """Searches the rows of one index; thread-safe.

    `rescore` is the number of candidates per hit, above 1 if candidates are ranked by compressed rows.
    """

    def __init__(self, embeddings_ND: NDArray[np.float32], candidates: Candidates, *, rescore: int = 1) -> None:
        self.embeddings = embeddings_ND
        self._candidates = candidates
        self._rescore = rescore

    @property
    def rescore(self) -> int:
        """Candidates per hit."""
        return self._rescore

    def search(self, queries_ND: NDArray[np.float32], k: int, *, check: Check = lambda: None) -> Hits:
        """Return the `k` nearest rows of each query [N, D]; queries must have unit length, which is not checked."""
        num_queries, num_rows = len(queries_ND), len(self.embeddings)
        scores_NK = np.full((num_queries, k), -np.inf, np.float32)
        rows_NK = np.full((num_queries, k), -1, np.int64)
        num_wanted = min(k, num_rows)
        if num_wanted == 0:
            return Hits(scores_NK, rows_NK)
        num_candidates = min(num_rows, num_wanted * self._rescore + _MARGIN)
        block = max(1, _CANDIDATES_PER_BLOCK // num_candidates)
        for start in range(0, num_queries, block):
            check()
            part = queries_ND[start : start + block]
            scores_NM, rows_NM = self._candidates.nearest(part, num_candidates, self._candidates.nprobe)
            for number, query_D in enumerate(part):
                scores, rows = self._finish(query_D, scores_NM[number], rows_NM[number], num_wanted, check)
                scores_NK[start + number, : len(scores)] = scores
                rows_NK[start + number, : len(rows)] = rows
        return Hits(scores_NK, rows_NK)

    def _finish(
        self, query_D: NDArray[np.float32], scores_M: Scores, rows_M: Rows, num_wanted: int, check: Check
    ) -> tuple[Scores, Rows]:
        """Rank the candidates of one query; visits more lists if these contained too few rows."""
        nprobe = self._candidates.nprobe
        while (rows_M >= 0).sum() < num_wanted and nprobe < self._candidates.num_lists:
            check()
            nprobe = min(2 * nprobe, self._candidates.num_lists)
            scores_1M, rows_1M = self._candidates.nearest(query_D[None], len(rows_M), nprobe)
            scores_M, rows_M = scores_1M[0], rows_1M[0]
        num_asked = len(rows_M)
        is_row = rows_M >= 0
        scores_M, rows_M = scores_M[is_row], rows_M[is_row]
        scores, rows, best = self._rank(query_D, rows_M, num_wanted, check)
        if len(rows_M) < num_asked or num_asked == len(self.embeddings):
            return scores, rows
        # Rows that were not fetched score at most as high as the last candidate; they matter if a hit may score as low.
        lowest = float(scores_M[best].min()) - self._candidates.noise
        if scores_M.min() > lowest:
            check()
            in_tie = self._candidates.above(query_D, lowest, nprobe)
            scores, rows, _ = self._rank(query_D, in_tie, num_wanted, check)
        return scores, rows

    def _rank(
        self, query_D: NDArray[np.float32], rows_M: Rows, num_wanted: int, check: Check
    ) -> tuple[Scores, Rows, NDArray[np.int64]]:
        """Return scores and rows of the best candidates, and their positions among the candidates."""
        scores_M = exact_scores(self.embeddings, rows_M, query_D, check=check)
        best = np.lexsort((rows_M, -scores_M))[:num_wanted]
        return scores_M[best], rows_M[best], best


def exact_scores(
    embeddings_ND: NDArray[np.float32], rows_M: Rows, query_D: NDArray[np.float32], *, check: Check = lambda: None
) -> Scores:
    """Return the cosines of rows to a query [M], summed in float64 and rounded to float32."""
    query = query_D.astype(np.float64)
    scores_M = np.empty(len(rows_M), np.float32)
    for start in range(0, len(rows_M), _ROWS_PER_PIECE):
        check()
        part = slice(start, start + _ROWS_PER_PIECE)
        # A sum along the last axis adds every row in the same order; a matrix product does not.
        scores_M[part] = (embeddings_ND[rows_M[part]] * query).sum(axis=1)
    return scores_M
