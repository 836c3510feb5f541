"""Distances, means and log-sum-exps that stay finite, in float32 whatever the precision of the network.

Nothing here waits for the device. float64 stays float64, so that a loss can be compared with an oracle.
Shape legend: B batch, D embedding dimension, K rows that the batch is compared with.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# The square root has no finite gradient at zero, the squared distance of two equal images.
MIN_SQUARED_DISTANCE = 1e-8
# Stands for log(0): with -inf a fully masked row would have NaN gradients.
NEGLIGIBLE = -1e30


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast does not reduce matrix products to half precision."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; other types are returned unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def cosine_similarities(embeddings_BD: Tensor, others_KD: Tensor | None = None) -> Tensor:
    """Return the cosines [B, K] of unit-length rows, by default of the batch with itself [B, B]."""
    with without_autocast(embeddings_BD):
        embeddings_BD = at_least_float32(embeddings_BD)
        others_KD = embeddings_BD if others_KD is None else others_KD.to(embeddings_BD.dtype)
        return embeddings_BD @ others_KD.T


def euclidean_distances(embeddings_BD: Tensor) -> Tensor:
    """Return the distances [B, B] of the batch with itself.

    If two rows (nearly) coincide, the distance is 1e-4 and its gradient zero.
    """
    products_BB = cosine_similarities(embeddings_BD)
    # Lengths come from the same product, so that equal rows cancel even if rounding changed their length.
    squared_B = products_BB.diagonal()
    squared_BB = (squared_B.unsqueeze(1) + squared_B).sub(products_BB, alpha=2)
    return squared_BB.clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def masked_log_sum_exp(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the log-sum-exp over the entries in `mask`; an empty sum is `NEGLIGIBLE`."""
    return values.masked_fill(~mask, NEGLIGIBLE).logsumexp(dim)


def log_one_plus_exp(values: Tensor) -> Tensor:
    """Return log(1 + e^x); exactly zero with a zero gradient for `NEGLIGIBLE`."""
    # Above 40 the difference from x is below the resolution of float64.
    return torch.nn.functional.softplus(values, threshold=40.0)


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """Divide a sum by its number of terms; without terms the mean and its gradient are zero."""
    return total / count.clamp(min=1)


def mean_of_active(hinges: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the positive terms and their number; no term may be negative."""
    num_active = torch.count_nonzero(hinges)
    return mean_of(hinges.sum(), num_active), num_active
