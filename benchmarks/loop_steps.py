"""Training loops whose steps can be timed, on decoded images or features in memory.

Shape legend: B images of a batch, H height, W width, C channels.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.model import Architecture, EmbeddingModel, create_model, with_linear_head
from embedding.preprocessing import Preprocessing
from training.batches import BatchSampler
from training.config import TrainingConfig, config_from_tables
from training.data.features import Features
from training.inputs import FeatureInputs, ImageInputs, TrainingInputs
from training.loop import TrainingLoop
from training.loop_parts import LoopHooks, LoopParts
from training.losses.factory import create_loss
from training.mining import RepresentativeTable

EMBEDDING_DIM = 256
# Enough steps of warm-up for the table of representatives to hold most classes, so that classes are mined.
WARM_UP_STEPS = 16

PLAIN, PROJECTIONS = "plain", "projections + mining"

# Runs a number of steps and returns the mean seconds of one.
Block = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Workload:
    """What a step computes: the network "head" is a linear head on stored features, `image_size` 0 the backbone's."""

    network: str = "efficientnet_lite0"
    classes_per_batch: int = 8
    images_per_class: int = 4
    image_size: int = 0
    num_classes: int = 100
    num_images_per_class: int = 20

    @property
    def batch_size(self) -> int:
        """Images in a batch."""
        return self.classes_per_batch * self.images_per_class

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class id of each image in memory."""
        return np.arange(self.num_classes).repeat(self.num_images_per_class)


class MemoryPixels:
    """Random decoded images in memory."""

    def __init__(self, num_images: int, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._pixels = torch.randint(0, 256, (num_images, size, size, 3), generator=generator, dtype=torch.uint8)

    def pixels(self, indices: NDArray[np.int64], *, pin_memory: bool = False) -> torch.Tensor:
        """Return uint8 pixels [B, H, W, 3]."""
        pixels = self._pixels[torch.from_numpy(indices)]
        return pixels.pin_memory() if pin_memory else pixels


def config_of(name: str, work: Workload) -> TrainingConfig:
    """Return the configuration of the loop `name`; within a benchmark it neither ends, logs nor evaluates."""
    is_plain = name != PROJECTIONS
    return config_from_tables(
        {
            "steps": 10**6,
            "log_every": 10**6,
            "network": {"train": "head" if work.network == "head" else "all", "embedding_dim": EMBEDDING_DIM},
            "batches": {
                "classes_per_batch": work.classes_per_batch,
                "images_per_class": work.images_per_class,
                "representatives": "none" if is_plain else "queue",
                "hard_class_fraction": 0.0 if is_plain else 0.5,
            },
            "projections": {"pull": "none" if is_plain else "coupled", "pull_weight": 1e-2},
            "augmentation": {"crop_area_min": 0.16},
        }
    )


def model_of(work: Workload, device: torch.device) -> tuple[EmbeddingModel, Preprocessing]:
    """Return a network of random weights on the device, with its preprocessing."""
    torch.manual_seed(0)
    backbone = "efficientnet_lite0" if work.network == "head" else work.network
    headless, preprocessing = create_model(Architecture(backbone), pretrained=False)
    model = with_linear_head(headless, EMBEDDING_DIM)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model, preprocessing


def inputs_of(
    work: Workload, model: EmbeddingModel, preprocessing: Preprocessing, device: torch.device
) -> TrainingInputs:
    """Return random images, or random features for the network "head"."""
    num_images = len(work.labels)
    if work.network == "head":
        features = torch.randn(num_images, 3, model.num_channels, generator=torch.Generator().manual_seed(0))
        rows = torch.nn.functional.normalize(features, dim=2).flatten(0, 1)
        return FeatureInputs(model, Features(rows, np.arange(num_images + 1) * 3, {}), device)
    pixels = MemoryPixels(num_images, work.image_size or preprocessing.image_size)
    return ImageInputs(model, preprocessing, pixels, pixels, config_of(PLAIN, work).augmentation, device)


def loop_steps(name: str, work: Workload, device: torch.device) -> Block:
    """Return the training loop `name` (PLAIN or PROJECTIONS) as a block of steps."""
    config = config_of(name, work)
    labels = work.labels
    model, preprocessing = model_of(work, device)
    table = RepresentativeTable(work.num_classes, EMBEDDING_DIM, device)
    parts = LoopParts(
        config=config,
        model=model,
        loss=create_loss(config.loss, work.num_classes, EMBEDDING_DIM).to(device),
        inputs=inputs_of(work, model, preprocessing, device),
        positions=np.arange(len(labels)),
        batches=BatchSampler(config.batches, labels, np.zeros(len(labels), np.bool_), table, seed=0),
        table=table,
        device=device,
    )

    def block(num_steps: int) -> float:
        num_calls = 0
        started = ended = 0.0

        def should_stop() -> bool:
            # Called after each step. It synchronises at both ends only, so that within a block the host can run ahead.
            nonlocal num_calls, started, ended
            if num_calls == 0:
                wait_for(device)
                started = time.perf_counter()
            elif num_calls == num_steps:
                wait_for(device)
                ended = time.perf_counter()
            num_calls += 1
            return num_calls > num_steps

        TrainingLoop(parts, LoopHooks(should_stop=should_stop)).run()
        return (ended - started) / num_steps

    return block


def timed_steps(step: Callable[[], object], device: torch.device) -> Block:
    """Return any step as a block of steps."""

    def block(num_steps: int) -> float:
        wait_for(device)
        started = time.perf_counter()
        for _ in range(num_steps):
            step()
        wait_for(device)
        return (time.perf_counter() - started) / num_steps

    return block


def take_turns(
    blocks: dict[str, Block], num_rounds: int, steps_at_once: int, deadline: float = math.inf
) -> dict[str, list[float]]:
    """Run blocks of steps in turn and return the seconds a step of each round, so that noise falls on all alike.

    No round begins after `deadline` (of time.monotonic) but the first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for number in range(num_rounds):
        if number and time.monotonic() > deadline:
            break
        # A new order each round, since each block leaves its data in the caches.
        for name in np.random.default_rng(number).permutation(list(blocks)).tolist():
            seconds[name].append(blocks[name](steps_at_once))
    return seconds


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
