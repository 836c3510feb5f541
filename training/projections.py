"""Alternating projections onto feasible sets (docs/method.md §1 and §2).

Selecting one representative per class relaxes the constraints to the pairs with a representative. The projection onto
the relaxed set, θ_{k+1} = argmin ½‖θ − θ_k‖² over θ in C_k, is solved approximately by T optimiser steps on
L_k(θ) + (λ/2)‖θ − θ_k‖² (arXiv:1907.07585). Then the selection changes, and the next projection starts where this one
ended. θ_k are the *anchor weights*: an exact copy of the weights when the projection begins.

λ_0 = 0, since there is no previous iterate, then λ·decay^k; optimiser moments are kept across projections, and learnt
loss parameters are not pulled (all arXiv:2209.09060). The decoupled pull θ ← θ − ρ(θ − θ_k) after the optimiser's step
and the relaxed projections θ_k + a(θ* − θ_k) are our own.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.config import ProjectionConfig


class Projections:
    """The anchor weights, the pull towards them and the end of each projection.

    `parameters` are the network's trainable weights, in a fixed order; `steps_per_projection` is T.
    """

    def __init__(
        self,
        config: ProjectionConfig,
        parameters: Sequence[Tensor],
        steps_per_projection: int,
        *,
        is_active: bool = True,
    ) -> None:
        self._config = config
        self._parameters = list(parameters)
        self.steps_per_projection = steps_per_projection
        self.is_active = is_active
        self.number = -1  # of the current projection, from 0
        self.weight = 0.0  # λ_k or ρ_k
        self._step = 0  # within the projection
        self._anchor_weights: list[Tensor] = []
        self._best: list[Tensor] = []
        self._best_metric = -math.inf
        self._num_stale = 0

    def begin(self) -> None:
        """Start the next projection: the current weights become the anchor weights."""
        self.number += 1
        self._step = 0
        config = self._config
        self.weight = 0.0 if self.number == 0 or config.pull == "none" else self._weight_of(self.number)
        self._best, self._best_metric, self._num_stale = [], -math.inf, 0
        if self.is_active:
            self._anchor_weights = _copy_into(self._anchor_weights, self._parameters)

    def _weight_of(self, number: int) -> float:
        return self._config.pull_weight * self._config.pull_decay**number

    def count_step(self) -> None:
        """Count an optimiser step of this projection."""
        self._step += 1

    @property
    def has_ended(self) -> bool:
        """Whether T steps are done or, with until = "metric", the validation metric has stopped improving."""
        if not self.is_active:
            return False
        if self._config.until == "metric":
            return self._num_stale >= self._config.patience
        return self._step >= self.steps_per_projection

    def observe(self, metric: float) -> None:
        """Record the validation metric (higher is better) of the current weights."""
        if metric > self._best_metric:
            self._best_metric, self._num_stale = metric, 0
            if self.is_active and self._config.anchor == "best":
                self._best = _copy_into(self._best, self._parameters)
        else:
            self._num_stale += 1

    @torch.no_grad()
    def end(self) -> None:
        """Set the weights to the projection's last or best, moved the share `relaxation` of the way to them."""
        if self._best:
            _copy_into(self._parameters, self._best)
        if self._anchor_weights and self._config.relaxation < 1:
            # anchor + a (θ* − anchor), written as a step back so that a = 1 changes no bit.
            torch._foreach_lerp_(self._parameters, self._anchor_weights, 1 - self._config.relaxation)

    @torch.no_grad()
    def add_pull(self) -> None:
        """Coupled: add λ(θ − θ_k) to the gradients, before clipping."""
        if not self.is_coupled:
            return
        gradients = [parameter.grad for parameter in self._parameters]
        drift = torch._foreach_sub(self._parameters, self._anchor_weights)
        # The backbone has no gradient during the warm-up of the head.
        pulled = [(gradient, change) for gradient, change in zip(gradients, drift, strict=True) if gradient is not None]
        if pulled:
            changes = [change for _, change in pulled]
            torch._foreach_add_([gradient for gradient, _ in pulled], changes, alpha=self.weight)

    @torch.no_grad()
    def pull_back(self) -> None:
        """Decoupled: θ ← θ − ρ(θ − θ_k), after the optimiser's step."""
        if self.is_decoupled:
            torch._foreach_lerp_(self._parameters, self._anchor_weights, self.weight)

    @property
    def is_coupled(self) -> bool:
        """Whether `add_pull` changes the gradients in this projection."""
        return self._config.pull == "coupled" and self.weight > 0

    @property
    def is_decoupled(self) -> bool:
        """Whether `pull_back` changes the weights in this projection."""
        return self._config.pull == "decoupled" and self.weight > 0

    @torch.no_grad()
    def pull_length(self) -> Tensor:
        """Return the length of the pull on the current weights, λ‖θ − θ_k‖ or ρ‖θ − θ_k‖."""
        return norm_of(torch._foreach_sub(self._parameters, self._anchor_weights)) * self.weight

    @torch.no_grad()
    def drift(self) -> Tensor | None:
        """Return ‖θ − θ_k‖ / ‖θ_k‖, or None without anchor weights."""
        if not self._anchor_weights:
            return None
        return norm_of(torch._foreach_sub(self._parameters, self._anchor_weights)) / norm_of(self._anchor_weights)

    def state(self) -> dict[str, Any]:
        """Return everything that determines the rest of this projection."""
        return {
            "number": self.number,
            "weight": self.weight,
            "step": self._step,
            "anchor": [tensor.cpu().clone() for tensor in self._anchor_weights],
            "best": [tensor.cpu().clone() for tensor in self._best],
            "best_metric": self._best_metric,
            "num_stale": self._num_stale,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue a stored projection."""
        self.number, self.weight, self._step = state["number"], state["weight"], state["step"]
        self._best_metric, self._num_stale = state["best_metric"], state["num_stale"]
        self._anchor_weights = self._on_device(state["anchor"])
        self._best = self._on_device(state["best"])

    def _on_device(self, tensors: list[Tensor]) -> list[Tensor]:
        # strict=False: both lists may be empty.
        return [tensor.to(parameter.device) for tensor, parameter in zip(tensors, self._parameters, strict=False)]


@torch.no_grad()
def relax(weights: Sequence[Tensor], start: Sequence[Tensor], share: float) -> None:
    """Set `weights` to the share a of the way from `start` to them, θ_0 + a (θ − θ_0), in place."""
    torch._foreach_lerp_(list(weights), list(start), 1 - share)


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of all tensors together, on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm


@torch.no_grad()
def _copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    """Copy `sources` into `targets`, or into new tensors if `targets` is empty."""
    if not targets:
        return [source.detach().clone() for source in sources]
    torch._foreach_copy_(list(targets), list(sources))
    return list(targets)
