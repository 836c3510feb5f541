"""What a training step costs: projections with mining against plain training, and plain against a peer's loop.

    python -m benchmarks.training_step [--network efficientnet_lite0|conv4|head] [--steps 30]

The peer is a loop written as for pytorch-metric-learning: its sampler and loss, with the same network, optimiser,
batch and precision. All loops take the same decoded images from memory. They take turns every few steps, so that other
work on the machine slows all of them alike; the table shows medians and their ratios. Peak memory is measured in a
separate process for each loop: of the device on CUDA, of the whole process on a CPU.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_metric_learning import losses, samplers

from benchmarks.loop_steps import (
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
from training.optimisation import set_training_mode

STEPS_AT_ONCE = 3
PEER = "peer, plain"
LOOPS = (PLAIN, PROJECTIONS, PEER)


def peer_steps(work: Workload, device: torch.device) -> Block:
    """Return the peer's loop as a block of steps."""
    config = config_of(PLAIN, work)
    model, preprocessing = model_of(work, device)
    inputs = inputs_of(work, model, preprocessing, device)
    module = inputs.network
    set_training_mode(model, config.network)
    trained = model.head.parameters() if work.network == "head" else model.parameters()
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4)
    loss = losses.MultiSimilarityLoss()
    labels = work.labels
    sampler = samplers.MPerClassSampler(
        labels, m=work.images_per_class, batch_size=work.batch_size, length_before_new_iter=10**5
    )
    generator = torch.Generator().manual_seed(0)

    def batches() -> Iterator[NDArray[np.int64]]:
        images = iter(sampler)
        while True:
            yield np.array([next(images) for _ in range(work.batch_size)])

    drawn = batches()
    nothing_plain = np.zeros(work.batch_size, np.bool_)

    def step() -> None:
        images = next(drawn)
        embeddings = module(inputs.batch(images, nothing_plain, generator, slice(0, work.batch_size)))
        value = loss(embeddings, torch.from_numpy(labels[images]).to(device))
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()

    return timed_steps(step, device)


def steps_of(name: str, work: Workload, device: torch.device) -> Block:
    """Return a loop by its name in LOOPS."""
    return peer_steps(work, device) if name == PEER else loop_steps(name, work, device)


def time_side_by_side(work: Workload, num_steps: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds a step of each loop, a value for each turn."""
    loops = {name: steps_of(name, work, device) for name in LOOPS}
    for block in loops.values():
        block(WARM_UP_STEPS)
    return take_turns(loops, -(-num_steps // STEPS_AT_ONCE), STEPS_AT_ONCE)


def peak_memory(name: str, work: Workload, device: torch.device) -> int:
    """Return the peak memory of a loop in bytes: of the device, or of the whole process."""
    steps_of(name, work, device)(WARM_UP_STEPS)
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
    work = Workload(arguments.network)
    if arguments.memory_of:
        print(json.dumps(peak_memory(arguments.memory_of, work, device)))
        return
    seconds = time_side_by_side(work, arguments.steps, device)
    memory = {}
    for name in LOOPS:
        command = [sys.executable, "-m", "benchmarks.training_step", "--network", work.network, "--memory-of", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        memory[name] = int(done.stdout)
    print(f"{work.network} on {device}, {torch.get_num_threads()} threads, {arguments.steps} steps each")
    print(f"{'loop':24s} {'ms a step':>10s} {'/ plain':>8s} {'MiB':>7s} {'/ plain':>8s}")
    for name in LOOPS:
        # The median ratio of steps that ran one after the other, not the ratio of two medians: noise cancels.
        ratio = statistics.median(ours / base for ours, base in zip(seconds[name], seconds[PLAIN], strict=True))
        median = statistics.median(seconds[name])
        mib = memory[name] / 2**20
        print(f"{name:24s} {median * 1e3:10.2f} {ratio:8.3f} {mib:7.0f} {memory[name] / memory[PLAIN]:8.3f}")


if __name__ == "__main__":
    main()
