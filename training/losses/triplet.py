"""Triplet loss (FaceNet, arXiv:1503.03832).

Shape legend: B batch, D embedding dimension; BBB is sample, positive, negative.
"""

from typing import Literal

from torch import Tensor

from training.losses.distances import euclidean_distances, mean_of_active
from training.losses.pairs import LossOutput, MetricLoss, Pairs

TripletMining = Literal["all", "semi-hard"]
# Larger than any distance of unit vectors, so that a pair that is not allowed makes no triplet active.
_FAR = 1e6


class TripletLoss(MetricLoss):
    """Mean over active triplets of [d(x, positive) − d(x, negative) + α]₊. Terms are triplets.

    "semi-hard" keeps the triplets whose negative is farther than the positive, by less than α. It takes one tensor of
    B³ numbers (8 MB at B = 128) and a second one in the backward pass.
    """

    def __init__(self, margin: float = 0.0961, mining: TripletMining = "all") -> None:
        super().__init__()
        self.margin = margin
        self.mining = mining

    def _compute(self, embeddings_BD: Tensor, _labels_B: Tensor, pairs: Pairs) -> LossOutput:
        positive_BB, negative_BB = pairs.positive_BB, pairs.negative_BB
        distances_BB = euclidean_distances(embeddings_BD)
        # Masks are applied to the matrices, so that no mask of B³ elements is needed.
        reach_BB = (distances_BB + self.margin).masked_fill(~positive_BB, -_FAR)
        away_BB = distances_BB.masked_fill(~negative_BB, _FAR)
        violations_BBB = reach_BB.unsqueeze(2) - away_BB.unsqueeze(1)
        if self.mining == "semi-hard":
            is_hard_BBB = distances_BB.detach().unsqueeze(2) >= away_BB.detach().unsqueeze(1)
            violations_BBB.masked_fill_(is_hard_BBB, 0.0)
        value, num_active = mean_of_active(violations_BBB.relu_())
        num_triplets = (positive_BB.sum(1) * negative_BB.sum(1)).sum()
        return LossOutput(value, num_active, num_triplets)
