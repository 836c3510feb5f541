"""Diagnostics of a batch of embeddings, and warnings about collapse and about a pull without effect.

Shape legend: B samples, D embedding dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}


@torch.no_grad()
def diagnose(embeddings_BD: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
    """Return distance quantiles and spread of a batch as 0-d float32 tensors, without waiting for the device.

    `positive_distance_q10`, `_q50` and `_q90` are quantiles (linear between ranks) of the Euclidean distances of all
    pairs of one class, `negative_distance_…` of all pairs of two classes; NaN if the batch has no such pair.
    `embedding_spread` is the variance summed over the dimensions, for unit vectors 1 - ‖mean embedding‖²: 0 if all
    embeddings are equal, about 1 if they surround the centre of the sphere.
    """
    if embeddings_BD.ndim != 2 or labels_B.shape != embeddings_BD.shape[:1]:
        shapes = f"{list(embeddings_BD.shape)} and {list(labels_B.shape)}"
        raise ValueError(f"embeddings must be [B, D] with labels [B], got {shapes}")
    embeddings_BD = embeddings_BD.detach().float()
    # Every pair once, from differences, so that equal embeddings have distance 0 exactly.
    distances = F.pdist(embeddings_BD)
    first, second = torch.triu_indices(len(labels_B), len(labels_B), 1, device=labels_B.device)
    is_positive = labels_B[first] == labels_B[second]
    positives = _masked_quantiles(distances, is_positive)
    negatives = _masked_quantiles(distances, ~is_positive)
    return {
        **{f"positive_distance_{name}": value for name, value in positives.items()},
        **{f"negative_distance_{name}": value for name, value in negatives.items()},
        "embedding_spread": embeddings_BD.var(dim=0, correction=0).sum(),
    }


def _masked_quantiles(values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return QUANTILES of the masked values, with fixed shapes.

    torch.nanquantile would copy a tensor of ranks to the device and is limited to 16 million values.
    """
    if not len(values):
        return {name: values.new_full((), torch.nan) for name in QUANTILES}
    ordered = values.masked_fill(~mask, torch.inf).sort().values
    count = mask.sum()
    quantiles = {}
    for name, quantile in QUANTILES.items():
        rank = (count - 1).clamp(min=0) * quantile
        lower, upper = ordered[_index(rank.floor())], ordered[_index(rank.ceil())]
        value = torch.lerp(lower, upper, rank.frac().to(values.dtype))
        quantiles[name] = torch.where(count > 0, value, torch.nan).squeeze(0)
    return quantiles


def _index(rank: Tensor) -> Tensor:
    # One dimension: indexing with a 0-d tensor would read its value on the host.
    return rank.long().unsqueeze(0)


class _Streak:
    """Counts consecutive observations of a condition, and reports once when `patience` is reached."""

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience = patience
        self._length = 0
        self._has_warned = False

    def is_full(self, holds: bool) -> bool:
        """Count one observation; True the first time that the condition held `patience` times in a row."""
        self._length = self._length + 1 if holds else 0
        if self._has_warned or self._length < self.patience:
            return False
        self._has_warned = True
        return True

    def state_dict(self) -> dict[str, int]:
        """Return the state with which a resumed run warns at the same step as an uninterrupted one."""
        return {"length": self._length, "has_warned": int(self._has_warned)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from the result of `state_dict`."""
        self._length = state["length"]
        self._has_warned = bool(state["has_warned"])


class CollapseWatch(_Streak):
    """Warns once when the embeddings have been nearly equal for `patience` consecutive logged steps.

    A spread of 0.01 is a mean cosine of 0.99 between any two images. Networks trained from scratch start there and
    leave it within a few steps, hence the patience.
    """

    def __init__(self, patience: int = 10, *, min_spread: float = 0.01, min_negative_distance: float = 0.1) -> None:
        super().__init__(patience)
        self.min_spread = min_spread
        self.min_negative_distance = min_negative_distance

    def update(self, embedding_spread: float | None, negative_distance_q50: float | None) -> str | None:
        """Take the values of one logged step (None: unknown); return the warning when it is due."""
        is_narrow = embedding_spread is not None and embedding_spread < self.min_spread
        is_close = negative_distance_q50 is not None and negative_distance_q50 < self.min_negative_distance
        if not self.is_full(is_narrow or is_close):
            return None
        return (
            f"collapse: the embeddings of all classes are nearly equal (spread {_short(embedding_spread)}, median "
            f"distance of negatives {_short(negative_distance_q50)}) for {self.patience} logged steps; lower the "
            "learning rate, use another loss, or a larger margin"
        )


class PullWatch(_Streak):
    """Warns once when the pull towards the anchor weights had no effect for `patience` consecutive logged steps."""

    def __init__(self, patience: int = 20, *, min_ratio: float = 1e-3) -> None:
        super().__init__(patience)
        self.min_ratio = min_ratio

    def update(self, pull_ratio: float | None) -> str | None:
        """Take ‖pull‖ / ‖gradient‖ of one logged step; return the warning when it is due.

        None and exactly 0 are ignored: the pull is off, or the anchor weights were just set.
        """
        if pull_ratio is None or pull_ratio == 0 or not self.is_full(pull_ratio < self.min_ratio):
            return None
        return (
            f"the pull is inert: it stayed below {self.min_ratio:g} of the gradient for {self.patience} logged steps "
            f"(last {pull_ratio:.1e}); raise projections.pull_weight by decades until pull_ratio spans 0.01 to 1, or "
            'set projections.pull = "none"'
        )


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
