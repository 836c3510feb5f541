"""Retrieval metrics as defined in arXiv:2003.08505, and their averages over any part of the queries.

Shape legend: B queries of one block, Q all queries, K ranks, N stored nearest images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import InvalidEmbeddings


def r_precision(is_hit_BK: Tensor, num_relevant_B: Tensor) -> Tensor:
    """Return the share [B] of hits among the first R, where R is the query's number of relevant images (K >= R)."""
    hits_BK = is_hit_BK & _within_r(is_hit_BK, num_relevant_B)
    return hits_BK.sum(dim=1).double() / num_relevant_B


def map_at_r(is_hit_BK: Tensor, num_relevant_B: Tensor) -> Tensor:
    """Return (1/R) Σ_{i<=R} P@i·rel_i [B]: like R-precision, but earlier hits count more (K >= R)."""
    hits_BK = is_hit_BK & _within_r(is_hit_BK, num_relevant_B)
    ranks_K = torch.arange(1, is_hit_BK.shape[1] + 1, device=is_hit_BK.device, dtype=torch.float64)
    precisions_BK = hits_BK.cumsum(dim=1) / ranks_K
    return (precisions_BK * hits_BK).sum(dim=1) / num_relevant_B


def _within_r(is_hit_BK: Tensor, num_relevant_B: Tensor) -> Tensor:
    return torch.arange(is_hit_BK.shape[1], device=is_hit_BK.device) < num_relevant_B[:, None]


def recall_at_k(first_hit_rank: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Return 1.0 [Q] if a hit is among the k nearest, else 0.0; NaN without relevant images (rank 0)."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return np.where(first_hit_rank == 0, np.nan, (first_hit_rank <= k).astype(np.float64))


@dataclass(frozen=True, slots=True)
class RetrievalSummary:
    """Averages over the queries with a relevant image; NaN without such queries."""

    num_queries: int  # queries in the averages
    num_left_out: int  # queries without a relevant image
    recall: dict[int, float]  # by k
    r_precision: float
    map_at_r: float

    def metrics(self) -> dict[str, float]:
        """Return all values by their names in files: recall_at_1, ..., num_left_out."""
        recall = {f"recall_at_{k}": value for k, value in self.recall.items()}
        averages = recall | {"r_precision": self.r_precision, "map_at_r": self.map_at_r}
        return averages | {"num_queries": self.num_queries, "num_left_out": self.num_left_out}


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalResult:
    """The results of each query; arrays are in the order of the queries.

    A query without a relevant image is excluded from every average: its `num_relevant` and `first_hit_rank` are 0 and
    its other metrics NaN. Its nearest images are stored nevertheless.
    """

    ks: tuple[int, ...]
    query_labels: NDArray[np.int64]
    num_relevant: NDArray[np.int64]
    first_hit_rank: NDArray[np.int64]  # the best rank is 1
    r_precision: NDArray[np.float64]
    map_at_r: NDArray[np.float64]
    neighbour_ids: NDArray[np.int64]  # [Q, N] rows of the gallery, nearest first
    neighbour_scores: NDArray[np.float32]  # [Q, N]

    @property
    def is_counted(self) -> NDArray[np.bool_]:
        """Which queries [Q] have a relevant image."""
        return self.num_relevant > 0

    def recall_at(self, k: int) -> NDArray[np.float64]:
        """Return recall@k of each query, for any k."""
        return recall_at_k(self.first_hit_rank, k)

    def summary(self) -> RetrievalSummary:
        """Average over all queries."""
        return self.subset(np.ones(len(self.query_labels), bool))

    def subset(self, mask: NDArray[np.bool_]) -> RetrievalSummary:
        """Average over the queries selected by the mask [Q]."""
        if mask.shape != self.query_labels.shape or mask.dtype != np.bool_:
            raise InvalidEmbeddings(
                f"a mask of type {mask.dtype} and shape {mask.shape} names no part of {len(self.query_labels)}"
                " queries; give one bool per query"
            )
        return self._by_group(mask.astype(np.int64), 2)[1]

    def per_class(self, labels: NDArray[np.generic] | Sequence[str] | None = None) -> dict[int | str, RetrievalSummary]:
        """Average over the queries of each label, in ascending order; labels without relevant images are absent.

        `labels` [Q] are the names to group by, by default the labels of the queries.
        """
        names, groups = np.unique(self.query_labels if labels is None else np.asarray(labels), return_inverse=True)
        if groups.shape != self.query_labels.shape:
            raise InvalidEmbeddings(
                f"{groups.size} labels for {len(self.query_labels)} queries; give one label per query"
            )
        summaries = self._by_group(groups, len(names))
        return {name: part for name, part in zip(names.tolist(), summaries, strict=True) if part.num_queries}

    def _by_group(self, groups: NDArray[np.int64], num_groups: int) -> list[RetrievalSummary]:
        """Average over every group of queries in one pass: there may be as many groups as classes."""
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
