"""Angular loss (arXiv:1708.01682).

Shape legend: B batch, D embedding dimension.
"""

import math

from torch import Tensor

from training.losses.distances import cosine_similarities, mean_of
from training.losses.pairs import LossOutput, MetricLoss, Pairs

# tan² grows without bound; up to this angle the exponentials of unit vectors stay far within float32.
MAX_ANGLE_DEGREES = 60.0


class AngularLoss(MetricLoss):
    """log(1 + Σ_neg e^{4 tan²α (x + p)·n − 2(1 + tan²α) x·p}) per positive p of x, mean over positives.

    Terms are positives; negatives are those of the sample x.
    """

    def __init__(self, angle_degrees: float = 45.0) -> None:
        super().__init__()
        self.squared_tangent = math.tan(math.radians(angle_degrees)) ** 2

    def _compute(self, embeddings_BD: Tensor, _labels_B: Tensor, pairs: Pairs) -> LossOutput:
        positive_BB = pairs.positive_BB
        similarities_BB = cosine_similarities(embeddings_BD)
        exponentials_BB = (4 * self.squared_tangent * similarities_BB).exp()
        # e^{x·n + p·n} is a product, so the sum over negatives is a matrix product instead of B³ numbers.
        repulsion_BB = (exponentials_BB * pairs.negative_BB) @ exponentials_BB.T
        attraction_BB = (-2 * (1 + self.squared_tangent) * similarities_BB).exp()
        losses_BB = (repulsion_BB * attraction_BB).log1p() * positive_BB
        num_positives = positive_BB.sum()
        return LossOutput(mean_of(losses_BB.sum(), num_positives), num_positives, num_positives)
