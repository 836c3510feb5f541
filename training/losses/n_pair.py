"""N-pair loss and normalised softmax, which are one loss on the unit sphere with a temperature.

N-pair (Sohn, NeurIPS 2016) compares a sample with one image of each class, normalised softmax (arXiv:1811.12649) with
one weight of each class. With the representative in that role both have the same formula.
Shape legend: B batch, D embedding dimension.
"""

from torch import Tensor

from training.losses.distances import cosine_similarities, log_one_plus_exp, masked_log_sum_exp, mean_of
from training.losses.pairs import LossOutput, MetricLoss, Pairs


class NPairLoss(MetricLoss):
    """−log e^{s⁺/τ} / (e^{s⁺/τ} + Σ_neg e^{s/τ}), mean over positives, which are the terms.

    On representative pairs a sample has one positive; otherwise each of its positives is compared with all its
    negatives.
    """

    def __init__(self, temperature: float = 0.11) -> None:
        super().__init__()
        self.temperature = temperature

    def _compute(self, embeddings_BD: Tensor, _labels_B: Tensor, pairs: Pairs) -> LossOutput:
        positive_BB = pairs.positive_BB
        logits_BB = cosine_similarities(embeddings_BD) / self.temperature
        negatives_B = masked_log_sum_exp(logits_BB, pairs.negative_BB, dim=1)
        losses_BB = log_one_plus_exp(negatives_B.unsqueeze(1) - logits_BB) * positive_BB
        num_positives = positive_BB.sum()
        return LossOutput(mean_of(losses_BB.sum(), num_positives), num_positives, num_positives)


NormalisedSoftmaxLoss = NPairLoss
