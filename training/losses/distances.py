"""Distances, means and log-sum-exps that stay finite, in float32 whatever precision the network runs in.

Shape legend: B batch, D embedding dimension, K whatever the batch is compared with. Nothing here waits for the device.
float64 stays float64, so that a loss can be compared with an oracle.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# The root has no gradient at zero, and two equal images are at distance zero.
MIN_SQUARED_DISTANCE = 1e-8
# Stands for log(0): -inf would turn gradients into NaN where a whole row is masked.
NEGLIGIBLE = -1e30


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Keep autocast, where it is on, from taking the matrix products inside to half precision."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, and anything else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def cosine_similarities(embeddings_BD: Tensor, others_KD: Tensor | None = None) -> Tensor:
    """Return the cosines [B, K] of unit-length rows, by default of the batch with itself [B, B]."""
    with without_autocast(embeddings_BD):
        embeddings_BD = at_least_float32(embeddings_BD)
        others_KD = embeddings_BD if others_KD is None else others_KD.to(embeddings_BD.dtype)
        return embeddings_BD @ others_KD.T


def euclidean_distances(embeddings_BD: Tensor) -> Tensor:
    """Return the distances [B, B] of the batch with itself.

    Where two rows (nearly) coincide the distance is 1e-4 and its gradient zero.
    """
    products_BB = cosine_similarities(embeddings_BD)
    # Lengths come from the same product: equal rows then cancel, also where rounding has taken them off the sphere.
    squared_B = products_BB.diagonal()
    squared_BB = (squared_B.unsqueeze(1) + squared_B).sub(products_BB, alpha=2)
    return squared_BB.clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def masked_log_sum_exp(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return the log of the sum of the exponentials where `mask` holds; a sum over nothing is `NEGLIGIBLE`."""
    return values.masked_fill(~mask, NEGLIGIBLE).logsumexp(dim)


def log_one_plus_exp(values: Tensor) -> Tensor:
    """Return log(1 + e^x), which is exactly zero, with a zero gradient, for `NEGLIGIBLE`."""
    # From 40 on the difference from x is below what float64 resolves.
    return torch.nn.functional.softplus(values, threshold=40.0)


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """Divide a sum by its number of terms; over no term the mean is zero, with a zero gradient."""
    return total / count.clamp(min=1)


def mean_of_active(hinges: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the terms above zero, and their number; no term is below zero."""
    num_active = torch.count_nonzero(hinges)
    return mean_of(hinges.sum(), num_active), num_active
