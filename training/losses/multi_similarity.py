"""Multi-similarity loss (arXiv:1904.06627), without its mining of pairs.

Shape legend: B batch, D embedding dimension.
"""

from torch import Tensor

from training.losses.distances import cosine_similarities, log_one_plus_exp, masked_log_sum_exp, mean_of
from training.losses.pairs import LossOutput, MetricLoss, Pairs


class MultiSimilarityLoss(MetricLoss):
    """(1/a) log(1 + Σ_pos e^{−a(s−μ)}) + (1/b) log(1 + Σ_neg e^{b(s−μ)}) per sample. Terms are samples.

    The mean is over the samples with an allowed pair, positive or negative. Representatives, which are not samples of
    representative pairs, are therefore not counted.
    """

    def __init__(self, positive_scale: float = 2.0, negative_scale: float = 40.0, threshold: float = 0.5) -> None:
        super().__init__()
        self.positive_scale = positive_scale
        self.negative_scale = negative_scale
        self.threshold = threshold

    def _compute(self, embeddings_BD: Tensor, _labels_B: Tensor, pairs: Pairs) -> LossOutput:
        above_BB = cosine_similarities(embeddings_BD) - self.threshold
        positive_B = masked_log_sum_exp(-self.positive_scale * above_BB, pairs.positive_BB, dim=1)
        negative_B = masked_log_sum_exp(self.negative_scale * above_BB, pairs.negative_BB, dim=1)
        losses_B = (
            log_one_plus_exp(positive_B) / self.positive_scale + log_one_plus_exp(negative_B) / self.negative_scale
        )
        num_samples = pairs.allowed_BB.any(dim=1).sum()
        return LossOutput(mean_of(losses_B.sum(), num_samples), num_samples, num_samples)
