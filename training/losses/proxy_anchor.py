"""Proxy-anchor loss (arXiv:2003.13911), with learnt proxies or with representatives as proxies.

Shape legend: B batch, C classes, D embedding dimension, K proxies: C if learnt, B on representative pairs, where only
the columns of representatives are used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses.distances import cosine_similarities, log_one_plus_exp, masked_log_sum_exp, mean_of
from training.losses.pairs import LossOutput, MetricLoss, Pairs


class ProxyAnchorLoss(MetricLoss):
    """log(1 + Σ_{x of c} e^{−scale (s − margin)}) + log(1 + Σ_{x not of c} e^{scale (s + margin)}) per class c.

    s is the cosine of x and the proxy of the class. The first part is averaged over the classes with an x in the
    batch, the second over all proxies, which are the terms. On all pairs the proxy is a learnt weight, each image of
    the batch is an x, and labels are 0 to num_classes − 1. On representative pairs the proxy is the representative of
    the class in the batch and the x are the other images; nothing is learnt, and `num_classes` may be omitted.
    """

    def __init__(
        self,
        margin: float = 0.1,
        scale: float = 32.0,
        num_classes: int | None = None,
        embedding_dim: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.scale = scale
        self.proxies: nn.Parameter | None = None
        if num_classes is not None and embedding_dim is not None:
            self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
            # As in the authors' code.
            nn.init.kaiming_normal_(self.proxies, mode="fan_out", generator=generator)

    def _compute(self, embeddings_BD: Tensor, labels_B: Tensor, pairs: Pairs) -> LossOutput:
        if pairs.kind == "representative":
            similarities_BK = cosine_similarities(embeddings_BD)
            positive_BK, negative_BK = pairs.positive_BB, pairs.negative_BB
            num_proxies = pairs.is_representative_B.sum()
        else:
            if self.proxies is None:
                raise ValueError("proxy-anchor on all pairs needs num_classes and embedding_dim for its proxies")
            similarities_BK = cosine_similarities(embeddings_BD, F.normalize(self.proxies, dim=1))
            num_classes = len(self.proxies)
            positive_BK = labels_B.unsqueeze(1) == torch.arange(num_classes, device=labels_B.device)
            negative_BK = ~positive_BK
            num_proxies = torch.full((), num_classes, device=labels_B.device)
        attraction_BK = -self.scale * (similarities_BK - self.margin)
        repulsion_BK = self.scale * (similarities_BK + self.margin)
        attraction_K = log_one_plus_exp(masked_log_sum_exp(attraction_BK, positive_BK, dim=0))
        repulsion_K = log_one_plus_exp(masked_log_sum_exp(repulsion_BK, negative_BK, dim=0))
        num_present = positive_BK.any(dim=0).sum()
        value = mean_of(attraction_K.sum(), num_present) + mean_of(repulsion_K.sum(), num_proxies)
        return LossOutput(value, num_proxies, num_proxies)
