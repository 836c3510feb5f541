"""Metrics of ranked answers, as arXiv:2003.08505 defines them, and their averages over any part of the queries.

Shape legend: B queries of one block, Q all queries, K ranks, N nearest images that are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import InvalidEmbeddings


def r_precision(is_hit_BK: Tensor, num_relevant_B: Tensor) -> Tensor:
    """Return the share [B] of hits among the first R, R being each query's number of relevant images (K >= R)."""
    hits_BK = is_hit_BK & _within_r(is_hit_BK, num_relevant_B)
    return hits_BK.sum(dim=1).double() / num_relevant_B


def map_at_r(is_hit_BK: Tensor, num_relevant_B: Tensor) -> Tensor:
    """Return (1/R) Σ_{i<=R} P@i·rel_i [B]: R-precision that also asks how early the hits come (K >= R)."""
    hits_BK = is_hit_BK & _within_r(is_hit_BK, num_relevant_B)
    ranks_K = torch.arange(1, is_hit_BK.shape[1] + 1, device=is_hit_BK.device, dtype=torch.float64)
    precisions_BK = hits_BK.cumsum(dim=1) / ranks_K
    return (precisions_BK * hits_BK).sum(dim=1) / num_relevant_B


def _within_r(is_hit_BK: Tensor, num_relevant_B: Tensor) -> Tensor:
    return torch.arange(is_hit_BK.shape[1], device=is_hit_BK.device) < num_relevant_B[:, None]


def recall_at_k(first_hit_rank: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1.0 [Q] where a hit is among the k nearest, else 0.0; NaN where there is nothing to hit (rank 0)."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return np.where(first_hit_rank == 0, np.nan, (first_hit_rank <= k).astype(np.float64))


@dataclass(frozen=True, slots=True)
class RetrievalSummary:
    """Averages over the queries that have something to find; NaN where there is no such query."""

    num_queries: int  # those averaged over
    num_left_out: int  # those with no image of their class to find
    recall: dict[int, float]  # by k
    r_precision: float
    map_at_r: float

    def metrics(self) -> dict[str, float]:
        """Return everything by its name in files: recall_at_1, ..., num_left_out."""
        recall = {f"recall_at_{k}": value for k, value in self.recall.items()}
        averages = recall | {"r_precision": self.r_precision, "map_at_r": self.map_at_r}
        return averages | {"num_queries": self.num_queries, "num_left_out": self.num_left_out}


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalResult:
    """What each query found; arrays are in the order of the queries.

    A query with no image of its class to find is left out of every average: its `num_relevant` and
    `first_hit_rank` are 0, its other figures NaN. Its nearest images are there all the same.
    """

    ks: tuple[int, ...]
    query_labels: NDArray[np.int64]
    num_relevant: NDArray[np.int64]
    first_hit_rank: NDArray[np.int64]  # from 1 on
    r_precision: NDArray[np.float64]
    map_at_r: NDArray[np.float64]
    neighbour_ids: NDArray[np.int64]  # [Q, N] rows of the gallery, nearest first
    neighbour_scores: NDArray[np.float32]  # [Q, N]

    @property
    def is_counted(self) -> NDArray[np.bool_]:
        """Say which queries have something to find."""
        return self.num_relevant > 0

    def recall_at(self, k: int) -> NDArray[np.float64]:
        """Return each query's recall@k, for any k."""
        return recall_at_k(self.first_hit_rank, k)

    def summary(self) -> RetrievalSummary:
        """Average over all queries."""
        return self.subset(np.ones(len(self.query_labels), bool))

    def subset(self, mask: NDArray[np.bool_]) -> RetrievalSummary:
        """Average over the queries that the mask [Q] names."""
        if mask.shape != self.query_labels.shape or mask.dtype != np.bool_:
            raise InvalidEmbeddings(
                f"a mask of type {mask.dtype} and shape {mask.shape} names no part of {len(self.query_labels)}"
                " queries; give one bool per query"
            )
        return self._by_group(mask.astype(np.int64), 2)[1]

    def per_class(self, labels: NDArray[np.generic] | Sequence[str] | None = None) -> dict[int | str, RetrievalSummary]:
        """Average over the queries of each label, ascending; labels with nothing to find are absent.

        `labels` [Q] are names to group by; the queries' own labels where None.
        """
        names, groups = np.unique(self.query_labels if labels is None else np.asarray(labels), return_inverse=True)
        if groups.shape != self.query_labels.shape:
            raise InvalidEmbeddings(
                f"{groups.size} labels for {len(self.query_labels)} queries; give one label per query"
            )
        summaries = self._by_group(groups, len(names))
        return {name: part for name, part in zip(names.tolist(), summaries, strict=True) if part.num_queries}

    def _by_group(self, groups: NDArray[np.int64], num_groups: int) -> list[RetrievalSummary]:
        """Average over each group of queries at once: there may be as many groups as classes."""
        counted = groups[self.is_counted]
        num_queries = np.bincount(counted, minlength=num_groups)
        num_left_out = np.bincount(groups, minlength=num_groups) - num_queries

        def means(values: NDArray[np.float64]) -> list[float]:
            sums = np.bincount(counted, values[self.is_counted], minlength=num_groups)
            with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a group without queries.
                averages: list[float] = (sums / num_queries).tolist()
            return averages

        recalls = [means(self.recall_at(k)) for k in self.ks]
        columns = zip(
            num_queries.tolist(), num_left_out.tolist(), means(self.r_precision), means(self.map_at_r), strict=True
        )
        return [
            RetrievalSummary(
                num_queries=queries,
                num_left_out=left_out,
                recall={k: values[group] for k, values in zip(self.ks, recalls, strict=True)},
                r_precision=precision,
                map_at_r=average,
            )
            for group, (queries, left_out, precision, average) in enumerate(columns)
        ]
