"""Time and memory of a training step against the bare forward and backward pass of the same network."""

import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu_check.settings import Row, Settings
from benchmarks.loop_steps import (
    EMBEDDING_DIM,
    PLAIN,
    PROJECTIONS,
    WARM_UP_STEPS,
    Block,
    Workload,
    config_of,
    inputs_of,
    loop_steps,
    model_of,
    take_turns,
    timed_steps,
)
from training.optimisation import set_trainable, set_training_mode

PART = "training-step"
BARE = "bare forward and backward"
_MAX_ROUNDS = 30


def measure(settings: Settings, deadline: float) -> Iterator[Row]:
    """Time the loops in turn until `deadline` (of time.monotonic), or for at most 30 rounds."""
    device = torch.device(settings.device)
    work = _workload(settings)
    blocks: dict[str, Block] = {}
    memory: dict[str, int] = {}
    step_seconds: dict[str, float] = {}
    for name in (BARE, PLAIN, PROJECTIONS):
        before = _allocated(device)
        blocks[name] = _bare_steps(work, device) if name == BARE else loop_steps(name, work, device)
        # The first step also loads and selects kernels; it only limits the number of warm-up steps.
        first = blocks[name](1)
        affordable = (deadline - time.monotonic()) / (6 * first)
        step_seconds[name] = blocks[name](int(max(1, min(WARM_UP_STEPS, affordable))))
        memory[name] = _peak(device) - before
    steps_at_once = 5 if settings.is_cuda else 1
    # In each round, each loop runs one step that is not timed.
    round_seconds = (steps_at_once + 1) * sum(step_seconds.values())
    seconds = take_turns(blocks, _MAX_ROUNDS, steps_at_once, deadline - round_seconds)

    precision = "bf16" if settings.is_cuda else "float32"
    yield Row(
        PART,
        "network and batch",
        f"{_name_of(work)}, {work.batch_size} images, {precision}, {len(seconds[BARE])} rounds",
    )
    for name, values in seconds.items():
        yield Row(PART, name, statistics.median(values) * 1e3, "ms")
    for name in (PLAIN, PROJECTIONS):
        yield Row(PART, f"{name} / bare", _ratio(seconds[name], seconds[BARE]))
    yield Row(PART, f"{PROJECTIONS} / plain", _ratio(seconds[PROJECTIONS], seconds[PLAIN]))
    if settings.is_cuda:
        for name, num_bytes in memory.items():
            yield Row(PART, f"peak memory, {name}", num_bytes / 2**20, "MiB")


def _workload(settings: Settings) -> Workload:
    own_size = model_of(Workload(settings.network), torch.device("cpu"))[1].image_size
    return Workload(
        settings.network,
        settings.num_classes_per_batch,
        settings.images_per_class,
        settings.pixels_for(own_size),
        num_images_per_class=8,
    )


def _name_of(work: Workload) -> str:
    return f"{work.network} at {work.image_size} pixels"


def _bare_steps(work: Workload, device: torch.device) -> Block:
    """Return forward and backward passes, without optimiser, over one batch that is already on the device."""
    config = config_of(PLAIN, work)
    model, preprocessing = model_of(work, device)
    set_trainable(model, config.network)
    set_training_mode(model, config.network)
    nothing_plain = np.zeros(work.batch_size, np.bool_)
    images = inputs_of(work, model, preprocessing, device).batch(
        np.arange(work.batch_size), nothing_plain, torch.Generator().manual_seed(0), slice(0, work.batch_size)
    )
    # A loss with a gradient for every embedding.
    weights = torch.randn(work.batch_size, EMBEDDING_DIM, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            embeddings = model(images)
        model.zero_grad(set_to_none=True)
        (embeddings * weights).sum().backward()

    return timed_steps(step, device)


def _ratio(values: list[float], base: list[float]) -> float:
    """Return the median ratio of what ran in the same round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
