"""The inputs, callbacks and result of the training loop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.model import EmbeddingModel
from training.batches import BatchSampler
from training.config import TrainingConfig
from training.inputs import TrainingInputs
from training.losses.pairs import MetricLoss
from training.mining import RepresentativeTable
from training.running.distributed import ProcessGroup

Record = dict[str, Any]
Status = Literal["completed", "stopped_early", "interrupted"]


@dataclass(frozen=True, slots=True)
class LoopParts:
    """The inputs of the loop, created beforehand so that the loop only trains."""

    config: TrainingConfig
    model: EmbeddingModel
    loss: MetricLoss
    inputs: TrainingInputs
    positions: NDArray[np.int64]  # of the training images in `inputs`
    batches: BatchSampler
    table: RepresentativeTable
    device: torch.device
    # Returns the validation metrics of the current model by name, and under "metric" the name of the deciding one;
    # None without a validation part.
    validate: Callable[[], Record] | None = None
    group: ProcessGroup = field(default_factory=ProcessGroup)


@dataclass(frozen=True, slots=True)
class LoopHooks:
    """Callbacks of the loop."""

    record: Callable[[Record], None] = lambda _record: None
    save: Callable[[int, dict[str, Any]], None] = lambda _step, _state: None
    should_stop: Callable[[], bool] = lambda: False
    advanced: Callable[[int], None] = lambda _step: None  # after every step, with the number of steps done


@dataclass(frozen=True, slots=True)
class LoopResult:
    """How the loop ended; the selected weights are in the model."""

    status: Status
    steps: int
    best_step: int
    best_metric: float | None
    final_relaxation: float
    metric_name: str  # the metric that selected the weights; empty without validation
    kept_metric: float | None  # of the selected weights, after the final relaxation
    warnings: tuple[str, ...]
    seconds: float = field(default=0.0, compare=False)  # of training, including the time before an interruption
