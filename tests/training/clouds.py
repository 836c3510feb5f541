"""A problem that is learnt in under a second: each class is a cloud of features, the model a linear head."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.model import Architecture, create_model, with_linear_head
from training.batches import BatchSampler
from training.config import BatchConfig, EvaluationConfig, OptimiserConfig, TrainingConfig
from training.data.features import Features
from training.evaluation.retrieval import evaluate_retrieval, summarise
from training.inputs import FeatureInputs
from training.loop_parts import LoopParts
from training.losses.factory import LossConfig, create_loss
from training.mining import RepresentativeTable

NUM_CLASSES = 24
IMAGES_PER_CLASS = 6
NUM_TRAINED = 16  # classes 0 to 15; the others are for validation
CLOUD_LABELS = np.arange(NUM_CLASSES).repeat(IMAGES_PER_CLASS)
NUM_VIEWS = 3
CHANNELS = 128
DIM = 16

CONFIG = TrainingConfig(
    steps=40,
    log_every=5,
    save_every=1000,
    batches=BatchConfig(classes_per_batch=4, images_per_class=3),
    loss=LossConfig("multi_similarity"),
    optimiser=OptimiserConfig(head_learning_rate=1e-3),
    evaluation=EvaluationConfig(every=20),
)


def with_knobs(config: TrainingConfig = CONFIG, **sections: Any) -> TrainingConfig:
    """Return a copy with other settings: with_knobs(projections={"pull": "coupled"}, steps=8)."""
    changed = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in sections.items()
    }
    return replace(config, **changed)


def features() -> torch.Tensor:
    """Return unit features [N, V, C]: the direction of a class is hidden by noise common to all classes."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(NUM_CLASSES, 8, generator=generator)
    mixing = torch.randn(8, CHANNELS, generator=generator)
    signal = (centres @ mixing).repeat_interleave(IMAGES_PER_CLASS, 0)
    # Strong noise in a few directions, like light and background, which a head can learn to ignore.
    nuisance = torch.randn(len(signal), 12, generator=generator) @ torch.randn(12, CHANNELS, generator=generator)
    images = signal + 2.0 * nuisance
    views = images[:, None] + 0.5 * torch.randn(len(signal), NUM_VIEWS, CHANNELS, generator=generator)
    return torch.nn.functional.normalize(views, dim=2)


def loop_parts(
    config: TrainingConfig = CONFIG,
    *,
    validated: bool = True,
    trained: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> LoopParts:
    """Create the parts of a loop over the clouds; equal configurations give equal parts.

    `trained` are the positions to train on, by default all images of the trained classes; `labels` replaces their
    true labels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model, _ = create_model(Architecture("conv4"), pretrained=False)
        model = with_linear_head(model, DIM)
    config = with_knobs(config, network={"train": "head"})
    device = torch.device("cpu")
    offsets = np.arange(len(CLOUD_LABELS) + 1) * NUM_VIEWS
    inputs = FeatureInputs(model, Features(features().flatten(0, 1), offsets, {}), device)
    trained = np.flatnonzero(CLOUD_LABELS < NUM_TRAINED) if trained is None else trained
    labels = CLOUD_LABELS[trained] if labels is None else labels
    is_catalogue = trained % IMAGES_PER_CLASS == 0
    table = RepresentativeTable(NUM_TRAINED, DIM, device)
    batches = BatchSampler(config.batches, labels, is_catalogue, table, seed=config.seed)
    held_out = np.flatnonzero(CLOUD_LABELS >= NUM_TRAINED)

    def validate() -> dict[str, Any]:
        metrics = summarise(evaluate_retrieval(inputs.embed(held_out), CLOUD_LABELS[held_out]))["all"]
        return {**metrics, "metric": "map_at_r"}

    generator = torch.Generator().manual_seed(config.seed)
    return LoopParts(
        config=config,
        model=model,
        loss=create_loss(config.loss, NUM_TRAINED, DIM, generator),
        inputs=inputs,
        positions=trained,
        batches=batches,
        table=table,
        device=device,
        validate=validate if validated else None,
    )


def weights(parts: LoopParts) -> torch.Tensor:
    """Return the trained weights as one vector."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in parts.model.head.parameters()])
