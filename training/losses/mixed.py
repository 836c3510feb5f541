"""A loss on representative pairs plus a share of the same loss on all pairs."""

from torch import Tensor

from training.losses.pairs import LossOutput, MetricLoss, Pairs, all_pairs


class MixedLoss(MetricLoss):
    """loss(representative pairs) + weight × loss(all pairs), called with the representative pairs.

    Terms are those of both parts. Learnt weights are shared; learnt proxies are used on all pairs only.
    """

    def __init__(self, loss: MetricLoss, weight: float = 0.1) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def _compute(self, embeddings_BD: Tensor, labels_B: Tensor, pairs: Pairs) -> LossOutput:
        if pairs.kind != "representative":
            raise ValueError(f"a mixed loss is called with representative pairs, got {pairs.kind!r} pairs")
        restricted = self.loss._compute(embeddings_BD, labels_B, pairs)
        plain = self.loss._compute(embeddings_BD, labels_B, all_pairs(labels_B))
        return LossOutput(
            restricted.value + self.weight * plain.value,
            restricted.num_active + plain.num_active,
            restricted.num_pairs + plain.num_pairs,
        )
