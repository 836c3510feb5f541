"""Margin loss (arXiv:1706.07567) with a learnt boundary, without its distance-weighted sampling.

Shape legend: B batch, C classes, D embedding dimension.
"""

import torch
from torch import Tensor, nn

from training.losses.distances import euclidean_distances, mean_of_active
from training.losses.pairs import LossOutput, MetricLoss, Pairs


class MarginLoss(MetricLoss):
    """[d − β + α]₊ on positives and [β + α − d]₊ on negatives, mean over active of both together. Terms are pairs.

    β is learnt: one number or, with `num_classes`, one per class, where a pair uses that of its sample's class and
    labels are 0 to num_classes − 1.
    """

    def __init__(self, beta: float = 1.2, margin: float = 0.2, num_classes: int | None = None) -> None:
        super().__init__()
        self.margin = margin
        self.beta = nn.Parameter(torch.full((1 if num_classes is None else num_classes,), float(beta)))
        self.has_beta_per_class = num_classes is not None

    def _compute(self, embeddings_BD: Tensor, labels_B: Tensor, pairs: Pairs) -> LossOutput:
        distances_BB = euclidean_distances(embeddings_BD)
        beta = self.beta[labels_B].unsqueeze(1) if self.has_beta_per_class else self.beta
        excess_BB = distances_BB - beta
        signed_BB = torch.where(pairs.has_same_label_BB, excess_BB, -excess_BB)
        value, num_active = mean_of_active((signed_BB + self.margin).relu() * pairs.allowed_BB)
        return LossOutput(value, num_active, pairs.allowed_BB.sum())
