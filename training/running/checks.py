"""Checks before training that need the configuration, the data and the processes together."""

from dataclasses import replace

import torch
from torch import nn

from embedding.model import EmbeddingModel
from training.config import TrainingConfig
from training.errors import InvalidConfig
from training.optimisation import has_batch_norm
from training.running.distributed import ProcessGroup
from training.running.preparation import TrainingData
from training.running.starting_model import StartingModel


def check_processes(config: TrainingConfig, model: EmbeddingModel, group: ProcessGroup, device: torch.device) -> None:
    """Raise InvalidConfig, in every process, for a configuration that several processes cannot train."""
    if _trains_statistics(config, model) and group.size > 1 and device.type != "cuda":
        raise InvalidConfig(
            "batch norm over several processes needs CUDA; set network.freeze_batch_norm = true, or use one process"
        )


def _trains_statistics(config: TrainingConfig, model: EmbeddingModel) -> bool:
    return config.network.train == "all" and not config.network.freeze_batch_norm and has_batch_norm(model)


def check_run(config: TrainingConfig, data: TrainingData, model: EmbeddingModel, group: ProcessGroup) -> None:
    """Raise InvalidConfig for settings that would be ignored or fail with these data and processes."""
    num_per_batch = min(config.batches.classes_per_batch, data.num_classes)
    if num_per_batch % group.size:
        raise InvalidConfig(
            f"batches of {num_per_batch} classes cannot be shared evenly by {group.size} processes; choose a multiple "
            f"of them for batches.classes_per_batch (there are {data.num_classes} classes to train on)"
        )
    projections = config.projections
    if _trains_statistics(config, model) and (projections.final_relaxation < 1 or projections.choose_final_relaxation):
        raise InvalidConfig(
            "projections.final_relaxation would combine earlier weights with the last batch-norm statistics; set "
            "network.freeze_batch_norm = true, or omit it"
        )
    if data.split.validation is None:
        _check_without_validation(config)
    elif data.split.validation.is_unseen.all() and config.evaluation.metric.startswith(("seen_", "mean_of_parts")):
        raise InvalidConfig(
            f"evaluation.metric = {config.evaluation.metric!r} needs photos of classes that are trained on, and the "
            "validation part has none; take map_at_r, or raise split.validation_example_share"
        )
    elif not data.split.validation.is_unseen.any() and "unseen" in config.evaluation.metric:
        raise InvalidConfig(
            f"evaluation.metric = {config.evaluation.metric!r} needs classes that are not trained on, and the "
            "validation part has none; raise split.validation_share"
        )


def _check_without_validation(config: TrainingConfig) -> None:
    needing = {
        'projections.until = "metric"': config.projections.until == "metric",
        'projections.anchor = "best"': config.projections.anchor == "best",
        "projections.choose_final_relaxation": config.projections.choose_final_relaxation,
        "evaluation.patience": config.evaluation.patience > 0,
    }
    for name, is_set in needing.items():
        if is_set:
            raise InvalidConfig(
                f"{name} needs a validation part, and there is none; raise split.validation_share or "
                "split.validation_example_share"
            )


def share_batch_norm(start: StartingModel, config: TrainingConfig, group: ProcessGroup) -> StartingModel:
    """Synchronise batch norm over all processes if its statistics are trained."""
    if group.size == 1 or config.network.freeze_batch_norm or config.network.train == "head":
        return start
    model = nn.SyncBatchNorm.convert_sync_batchnorm(start.model)  # type: ignore[no-untyped-call]
    assert isinstance(model, EmbeddingModel)
    return replace(start, model=model)
