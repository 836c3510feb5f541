"""Optimiser, parameter groups and learning-rate schedule."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from embedding.model import EmbeddingModel
from training.config import NetworkConfig, OptimiserConfig

BACKBONE, HEAD, LOSS = "backbone", "head", "loss"

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def set_trainable(model: EmbeddingModel, config: NetworkConfig, *, head_only: bool = False) -> None:
    """Set which weights of a model are trained; `head_only` during the warm-up of the head."""
    is_frozen = head_only or config.train == "head"
    for parameter in model.parameters():
        parameter.requires_grad_(not is_frozen)
    # Not the exponent of GeM pooling: it is part of the precomputed features of a frozen backbone.
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
    if not config.train_batch_norm_affine:
        for module in _batch_norms(model):
            for parameter in module.parameters():
                parameter.requires_grad_(False)


def set_training_mode(model: EmbeddingModel, config: NetworkConfig) -> None:
    """Put a model into training mode; frozen batch norm uses its stored statistics and does not update them."""
    model.train()
    if config.train == "head":
        model.backbone.eval()
    if config.freeze_batch_norm:
        for module in _batch_norms(model):
            module.eval()


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained weights in a fixed order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def create_optimiser(model: EmbeddingModel, loss: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Create the optimiser of the trainable weights of model and loss, with one learning rate per group."""
    undecayed = {id(parameter) for module in _batch_norms(model) for parameter in module.parameters()}
    groups: list[dict[str, object]] = []
    parts: list[tuple[str, Iterable[tuple[str, nn.Parameter]], float]] = [
        (
            BACKBONE,
            [*model.backbone.named_parameters(), *model.pooling.named_parameters()],
            config.backbone_learning_rate,
        ),
        (HEAD, model.head.named_parameters(), config.head_learning_rate),
        (LOSS, loss.named_parameters(), config.loss_learning_rate),
    ]
    for part, named, learning_rate in parts:
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        decayed = [p for _, p in trained if part != LOSS and p.ndim > 1 and id(p) not in undecayed]
        kept = {id(parameter) for parameter in decayed}
        others = [p for _, p in trained if id(p) not in kept]
        for parameters, decay in ((decayed, config.weight_decay), (others, 0.0)):
            if parameters:
                group: dict[str, object] = {"params": parameters, "lr": learning_rate, "base_lr": learning_rate}
                groups.append({**group, "weight_decay": decay})
    # Fused: one kernel for all weights, also on the CPU.
    if config.name == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, fused=True)
    optimiser = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return optimiser(groups, fused=True)


def learning_rate_factor(step: int, num_steps: int, config: OptimiserConfig) -> float:
    """Return the factor of the base learning rate at step 0..num_steps-1: linear warm-up, then the schedule."""
    if step < config.warm_up_steps:
        return (step + 1) / config.warm_up_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warm_up_steps) / max(1, num_steps - config.warm_up_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its base learning rate times `factor`."""
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(parameters: list[nn.Parameter], clip_norm: float) -> Tensor:
    """Scale the gradients down to the norm `clip_norm` (0: never); returns the norm before, on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if clip_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm, foreach=True)
    return norm


def has_batch_norm(model: nn.Module) -> bool:
    """Tell whether a model contains batch norm."""
    return bool(_batch_norms(model))


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
