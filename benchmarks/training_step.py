"""What a step costs: projections with mining against plain training, and ours plain against the peer's.

    python benchmarks/training_step.py [--network efficientnet_lite0|conv4|head] [--steps 30]

The peer is a loop as pytorch-metric-learning's users write it: its sampler, its loss, the same network, optimiser,
batch and precision. All take the same decoded images from memory. The loops take turns every few steps, so that a
busy machine slows all of them alike; printed are medians and their ratios. Peak memory is measured in a process of its
own for each loop: the device's on CUDA, the whole process's on a CPU.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_metric_learning import losses, samplers

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
from training.optimisation import set_training_mode

NUM_CLASSES, IMAGES_PER_CLASS, DIM = 100, 20, 256
LABELS = np.arange(NUM_CLASSES).repeat(IMAGES_PER_CLASS)
# Enough for the table of representatives to hold every class, so that classes are mined.
WARM_UP_STEPS = 16
STEPS_AT_ONCE = 3

# Runs so many steps and returns the seconds of each.
Block = Callable[[int], list[float]]

LOOPS = ("plain", "projections + mining", "peer, plain")


class MemoryPixels:
    """Decoded images in memory."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._pixels = torch.randint(0, 256, (len(LABELS), size, size, 3), generator=generator, dtype=torch.uint8)

    def pixels(self, indices: NDArray[np.int64], *, pin_memory: bool = False) -> torch.Tensor:
        """Return uint8 pixels [B, H, W, 3]."""
        pixels = self._pixels[torch.from_numpy(indices)]
        return pixels.pin_memory() if pin_memory else pixels


def config_of(name: str, network: str) -> TrainingConfig:
    is_plain = name != "projections + mining"
    return config_from_tables(
        {
            "steps": 10**6,
            "log_every": 10**6,
            "network": {"train": "head" if network == "head" else "all", "embedding_dim": DIM},
            "batches": {
                "representatives": "none" if is_plain else "queue",
                "hard_class_fraction": 0.0 if is_plain else 0.5,
            },
            "projections": {"pull": "none" if is_plain else "coupled", "pull_weight": 1e-2},
            "augmentation": {"crop_area_min": 0.16},
        }
    )


def model_of(network: str) -> tuple[EmbeddingModel, Preprocessing]:
    torch.manual_seed(0)
    backbone = "efficientnet_lite0" if network == "head" else network
    model, preprocessing = create_model(Architecture(backbone), pretrained=False)
    return with_linear_head(model, DIM), preprocessing


def inputs_of(
    network: str, model: EmbeddingModel, preprocessing: Preprocessing, device: torch.device
) -> TrainingInputs:
    if network == "head":
        features = torch.randn(len(LABELS), 3, model.num_channels, generator=torch.Generator().manual_seed(0))
        rows = torch.nn.functional.normalize(features, dim=2).flatten(0, 1)
        return FeatureInputs(model, Features(rows, np.arange(len(LABELS) + 1) * 3, {}), device)
    pixels = MemoryPixels(preprocessing.image_size)
    config = config_of("plain", network)
    return ImageInputs(model, preprocessing, pixels, pixels, config.augmentation, device)


def our_steps(name: str, network: str, device: torch.device) -> Block:
    config = config_of(name, network)
    model, preprocessing = model_of(network)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    table = RepresentativeTable(NUM_CLASSES, DIM, device)
    parts = LoopParts(
        config=config,
        model=model,
        loss=create_loss(config.loss, NUM_CLASSES, DIM).to(device),
        inputs=inputs_of(network, model, preprocessing, device),
        positions=np.arange(len(LABELS)),
        batches=BatchSampler(config.batches, LABELS, LABELS < 0, table, seed=0),
        table=table,
        device=device,
    )

    def block(num_steps: int) -> list[float]:
        # The loop asks after each step whether to stop; the time between is that of a step.
        ends: list[float] = []

        def should_stop() -> bool:
            _wait_for(device)
            ends.append(time.perf_counter())
            return len(ends) > num_steps

        TrainingLoop(parts, LoopHooks(should_stop=should_stop)).run()
        return np.diff(ends).tolist()

    return block


def peer_steps(network: str, device: torch.device) -> Block:
    config = config_of("plain", network)
    model, preprocessing = model_of(network)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = inputs_of(network, model, preprocessing, device)
    module = inputs.network
    set_training_mode(model, config.network)
    trained = model.head.parameters() if network == "head" else model.parameters()
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4)
    loss = losses.MultiSimilarityLoss()
    batch_size = config.batches.batch_size
    sampler = samplers.MPerClassSampler(
        LABELS, m=config.batches.images_per_class, batch_size=batch_size, length_before_new_iter=10**5
    )
    generator = torch.Generator().manual_seed(0)

    def batches() -> Iterator[NDArray[np.int64]]:
        images = iter(sampler)
        while True:
            yield np.array([next(images) for _ in range(batch_size)])

    drawn = batches()
    nothing_plain = np.zeros(batch_size, bool)

    def step() -> float:
        started = time.perf_counter()
        images = next(drawn)
        pixels = inputs.batch(images, nothing_plain, generator, slice(0, batch_size))
        embeddings = module(pixels)
        value = loss(embeddings, torch.from_numpy(LABELS[images]).to(device))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        _wait_for(device)
        return time.perf_counter() - started

    return lambda num_steps: [step() for _ in range(num_steps)]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def steps_of(name: str, network: str, device: torch.device) -> Block:
    return peer_steps(network, device) if name == "peer, plain" else our_steps(name, network, device)


def time_side_by_side(network: str, num_steps: int, device: torch.device) -> dict[str, list[float]]:
    loops = {name: steps_of(name, network, device) for name in LOOPS}
    seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
    for name in LOOPS:
        loops[name](WARM_UP_STEPS)
    for number in range(-(-num_steps // STEPS_AT_ONCE)):
        # Another order each time, since each loop leaves caches to the next.
        for name in np.random.default_rng(number).permutation(LOOPS).tolist():
            seconds[name] += loops[name](STEPS_AT_ONCE)
    return seconds


def peak_memory(name: str, network: str, device: torch.device) -> int:
    """Return the bytes that a loop takes at most: on the device, or as a whole process."""
    step = steps_of(name, network, device)
    step(WARM_UP_STEPS)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("efficientnet_lite0", "conv4", "head"), default="efficientnet_lite0")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--memory-of", choices=LOOPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.memory_of:
        print(json.dumps(peak_memory(arguments.memory_of, arguments.network, device)))
        return
    seconds = time_side_by_side(arguments.network, arguments.steps, device)
    memory = {}
    for name in LOOPS:
        command = [sys.executable, __file__, "--network", arguments.network, "--memory-of", name]
        memory[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    plain = "plain"
    print(f"{arguments.network} on {device}, {torch.get_num_threads()} threads, {arguments.steps} steps each")
    print(f"{'loop':24s} {'ms a step':>10s} {'/ plain':>8s} {'MiB':>7s} {'/ plain':>8s}")
    for name in LOOPS:
        # The ratio of steps that ran one after the other, not of two medians: noise of the machine cancels.
        ratio = statistics.median(ours / base for ours, base in zip(seconds[name], seconds[plain], strict=True))
        median = statistics.median(seconds[name])
        mib = memory[name] / 2**20
        print(f"{name:24s} {median * 1e3:10.2f} {ratio:8.3f} {mib:7.0f} {memory[name] / memory[plain]:8.3f}")


if __name__ == "__main__":
    main()
