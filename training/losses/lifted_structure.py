"""Lifted structure loss (arXiv:1511.06452).

Shape legend: B batch, D embedding dimension.
"""

import torch
from torch import Tensor

from training.losses.distances import euclidean_distances, masked_log_sum_exp, mean_of
from training.losses.pairs import LossOutput, MetricLoss, Pairs


class LiftedStructureLoss(MetricLoss):
    """½ [log(Σ e^{m − d} over the negatives of either end) + d(x, positive)]₊², mean over positives.

    Terms are positives. The negatives of a pair's sample are those in its row; the negatives of its other end are the
    samples of other classes in its column.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def _compute(self, embeddings_BD: Tensor, _labels_B: Tensor, pairs: Pairs) -> LossOutput:
        positive_BB, negative_BB = pairs.positive_BB, pairs.negative_BB
        distances_BB = euclidean_distances(embeddings_BD)
        closeness_BB = self.margin - distances_BB
        of_sample_B = masked_log_sum_exp(closeness_BB, negative_BB, dim=1)
        of_other_B = masked_log_sum_exp(closeness_BB, negative_BB, dim=0)
        hinges_BB = (torch.logaddexp(of_sample_B.unsqueeze(1), of_other_B) + distances_BB).relu() * positive_BB
        num_positives = positive_BB.sum()
        value = 0.5 * mean_of(hinges_BB.square().sum(), num_positives)
        return LossOutput(value, torch.count_nonzero(hinges_BB), num_positives)
