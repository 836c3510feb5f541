"""The pairs of a batch that a loss may use, and the base class of all losses.

Shape legend: B batch, D embedding dimension. A mask [B, B] is directed: row i is the sample, column j the image that it
is compared with.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from training.losses.distances import at_least_float32, without_autocast


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The allowed pairs of a batch; an image is never paired with itself."""

    kind: Literal["all", "representative"]
    allowed_BB: Tensor
    has_same_label_BB: Tensor
    is_representative_B: Tensor

    @property
    def positive_BB(self) -> Tensor:
        """The allowed pairs of one class."""
        return self.allowed_BB & self.has_same_label_BB

    @property
    def negative_BB(self) -> Tensor:
        """The allowed pairs of two classes."""
        return self.allowed_BB & ~self.has_same_label_BB


def all_pairs(labels_B: Tensor) -> Pairs:
    """Allow every image with every other image."""
    num_images = len(labels_B)
    is_itself_BB = torch.eye(num_images, dtype=torch.bool, device=labels_B.device)
    none_B = torch.zeros(num_images, dtype=torch.bool, device=labels_B.device)
    return Pairs("all", ~is_itself_BB, labels_B.unsqueeze(1) == labels_B, none_B)


def representative_pairs(labels_B: Tensor, is_representative_B: Tensor) -> Pairs:
    """Allow every other image with every representative: the pairs of the relaxed set 𝒞_k."""
    allowed_BB = ~is_representative_B.unsqueeze(1) & is_representative_B
    return Pairs("representative", allowed_BB, labels_B.unsqueeze(1) == labels_B, is_representative_B)


@dataclass(frozen=True, slots=True, eq=False)
class LossOutput:
    """A loss and its numbers of terms, all 0-d tensors on the batch's device.

    Terms are what the loss averages over: pairs, triplets, positives, samples or classes, as each loss documents.
    `num_active` counts the terms above zero; without a hinge every term is active.
    """

    value: Tensor
    num_active: Tensor
    num_pairs: Tensor


class MetricLoss(nn.Module):
    """A loss of unit-length embeddings on the allowed pairs of a batch.

    Learnt weights of a loss are its parameters. Masks are dense and shapes fixed, so that nothing waits for the device.
    """

    def forward(self, embeddings_BD: Tensor, labels_B: Tensor, pairs: Pairs) -> LossOutput:
        """Return the loss in float32 (float64 for float64), also under autocast; labels are int64."""
        with without_autocast(embeddings_BD):
            return self._compute(at_least_float32(embeddings_BD), labels_B, pairs)

    def _compute(self, embeddings_BD: Tensor, labels_B: Tensor, pairs: Pairs) -> LossOutput:
        """Return the loss of embeddings in float32 or float64, with autocast off."""
        raise NotImplementedError
