"""Rankings of a block of queries: the nearest images of each query, and the rank of its first hit.

A score is a cosine; of equal scores the lower gallery index comes first.
Shape legend: B queries of one block, G gallery images, D embedding dimension, K ranks, W members of a class, T some
rows of a block.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Rows processed at once where a comparison allocates further arrays of their size.
_ROWS_AT_ONCE = 32


class LabelledGallery:
    """The embeddings of a gallery, and the images of each class in ascending order."""

    def __init__(self, embeddings_GD: Tensor, labels: NDArray[np.int64]) -> None:
        device = embeddings_GD.device
        self.embeddings_GD = embeddings_GD
        self._classes, self.codes = np.unique(labels, return_inverse=True)
        codes = self.codes
        self._counts = np.bincount(codes)
        self.codes_G = torch.from_numpy(codes).to(device)
        self._members_G = torch.from_numpy(np.argsort(codes, kind="stable")).to(device)
        self._starts_C = torch.from_numpy(np.cumsum(self._counts) - self._counts).to(device)
        self._counts_C = torch.from_numpy(self._counts).to(device)

    def __len__(self) -> int:
        return len(self.embeddings_GD)

    def codes_of(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the gallery's class number of each label, -1 for a class without images."""
        places = np.searchsorted(self._classes, labels).clip(max=len(self._classes) - 1)
        return np.where(self._classes[places] == labels, places, -1)

    def counts_of(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of images of each class."""
        return np.where(codes < 0, 0, self._counts[codes])

    def members_of(self, codes_T: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images [T, W] of each class in ascending order, and a mask that is false for padding."""
        counts_T1 = self._counts_C[codes_T][:, None]
        offsets_W = torch.arange(int(counts_T1.max()), device=codes_T.device)
        places_TW = self._starts_C[codes_T][:, None] + offsets_W
        return self._members_G[places_TW.clamp(max=len(self) - 1)], offsets_W < counts_T1


def rank(scores_BG: Tensor, num_ranks: int) -> Tensor:
    """Return the gallery indices [B, K] of the highest scores, highest first.

    Only the selected scores are sorted. Rows with equal scores among them (or just after them) are ranked again, since
    `topk` does not define the order of equal values.
    """
    num_selected = min(num_ranks + 1, scores_BG.shape[1])
    values_BK, ranked_BK = scores_BG.topk(num_selected, dim=1)
    ranked_BK = ranked_BK[:, :num_ranks].contiguous()
    tied_B = (values_BK[:, 1:] == values_BK[:, :-1]).any(dim=1)
    for rows_T in _row_groups(tied_B):
        ranked_BK[rows_T] = _rank_with_ties(scores_BG[rows_T], values_BK[rows_T, num_ranks - 1], num_ranks)
    return ranked_BK


def _rank_with_ties(scores_TG: Tensor, lowest_T: Tensor, num_ranks: int) -> Tensor:
    """Rank rows with ties; `lowest_T` is the score at the last rank."""
    is_above_TG = scores_TG > lowest_T[:, None]
    is_lowest_TG = scores_TG == lowest_T[:, None]
    # All scores above the last rank are selected; the remaining ranks go to the first of the equal scores.
    num_left_T1 = num_ranks - is_above_TG.sum(dim=1, keepdim=True)
    is_in_TG = is_above_TG | (is_lowest_TG & (is_lowest_TG.cumsum(dim=1) <= num_left_T1))
    ids_TK = is_in_TG.nonzero()[:, 1].view(-1, num_ranks)
    order_TK = scores_TG.gather(1, ids_TK).sort(dim=1, descending=True, stable=True).indices
    return ids_TK.gather(1, order_TK)


def first_hit_ranks(
    scores_BG: Tensor, is_hit_BK: Tensor, codes_B: Tensor, has_hit_B: Tensor, gallery: LabelledGallery
) -> Tensor:
    """Return the rank [B] of each query's first hit, starting at 1 and however deep; 0 without a hit.

    If the first hit is not among the K known ranks, the images ahead of it are counted, so that recall@1000 needs no
    ranking of 1000 images.
    """
    ranks_B = torch.where(is_hit_BK.any(dim=1), is_hit_BK.int().argmax(dim=1) + 1, 0)
    for rows_T in _row_groups(has_hit_B & (ranks_B == 0)):
        ranks_B[rows_T] = 1 + _num_ahead(scores_BG[rows_T], *gallery.members_of(codes_B[rows_T]))
    return ranks_B


def _num_ahead(scores_TG: Tensor, members_TW: Tensor, is_member_TW: Tensor) -> Tensor:
    """Count the images ahead of the best of the members."""
    member_scores_TW = scores_TG.gather(1, members_TW).masked_fill(~is_member_TW, -torch.inf)
    best_T1 = member_scores_TW.amax(dim=1, keepdim=True)
    # argmax returns the first of equal values and members ascend, so this is the lowest index among the best.
    first_T1 = members_TW.gather(1, member_scores_TW.argmax(dim=1, keepdim=True))
    ids_G = torch.arange(scores_TG.shape[1], device=scores_TG.device)
    num_above_T = (scores_TG > best_T1).sum(dim=1, dtype=torch.int32)
    num_equal_T = ((scores_TG == best_T1) & (ids_G < first_T1)).sum(dim=1, dtype=torch.int32)
    return (num_above_T + num_equal_T).long()


def _row_groups(is_chosen_B: Tensor) -> Iterator[Tensor]:
    """Yield the indices of the chosen rows, a few at a time."""
    rows = is_chosen_B.nonzero().flatten()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]
