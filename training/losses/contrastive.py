"""Contrastive loss (Hadsell et al., CVPR 2006), in the form of two separate means.

Shape legend: B batch, D embedding dimension.
"""

from torch import Tensor

from training.losses.distances import euclidean_distances, mean_of_active
from training.losses.pairs import LossOutput, MetricLoss, Pairs


class ContrastiveLoss(MetricLoss):
    """Mean over active positives of [d − m⁺]₊ plus mean over active negatives of [m⁻ − d]₊. Terms are pairs."""

    def __init__(self, positive_margin: float = 0.0, negative_margin: float = 0.3841) -> None:
        super().__init__()
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin

    def _compute(self, embeddings_BD: Tensor, _labels_B: Tensor, pairs: Pairs) -> LossOutput:
        distances_BB = euclidean_distances(embeddings_BD)
        positive, num_positive = mean_of_active((distances_BB - self.positive_margin).relu() * pairs.positive_BB)
        negative, num_negative = mean_of_active((self.negative_margin - distances_BB).relu() * pairs.negative_BB)
        return LossOutput(positive + negative, num_positive + num_negative, pairs.allowed_BB.sum())
