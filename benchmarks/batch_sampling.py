"""The time to draw a batch as the number of classes grows, and the time of the first one.

    python benchmarks/batch_sampling.py [--classes 1000 100000 1000000]

Batches of 8 classes × 4 images with representatives; without mining, and with half of the classes mined from a table of
128-dimensional embeddings. The lower bound of mining is the bare matrix product of the seeds with the table.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from numpy.typing import NDArray

from training.batches import BatchSampler
from training.config import BatchConfig
from training.mining import RepresentativeTable

DIM, IMAGES_PER_CLASS = 128, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=1000)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads; milliseconds")
    print(f"{'classes':>10s} {'first batch':>12s} {'a batch':>9s} {'99 %':>7s} {'mined':>9s} {'product':>9s}")
    for num_classes in arguments.classes:
        labels = np.random.default_rng(0).permutation(np.arange(num_classes).repeat(IMAGES_PER_CLASS))
        table = RepresentativeTable(num_classes, DIM, device)
        first, times = draw(labels, table, 0.0, arguments.batches)
        rows = torch.nn.functional.normalize(torch.randn(num_classes, DIM, device=device), dim=1)
        table.refresh(np.arange(num_classes), rows, step=0)
        _, mined = draw(labels, table, 0.5, max(20, arguments.batches // 20))
        product = bare_product(table, 20)
        figures = (first, statistics.median(times), float(np.quantile(times, 0.99)), statistics.median(mined), product)
        widths = zip(figures, ("12.1f", "9.3f", "7.3f", "9.3f", "9.3f"), strict=True)
        print(f"{num_classes:10,d} " + " ".join(f"{figure:{width}}" for figure, width in widths))


def draw(
    labels: NDArray[np.int64], table: RepresentativeTable, mined_share: float, num_batches: int
) -> tuple[float, list[float]]:
    started = time.perf_counter()
    config = BatchConfig(hard_class_fraction=mined_share)
    sampler = BatchSampler(config, labels, np.zeros(len(labels), bool), table, seed=0)
    sampler.begin_projection(0)
    sampler.prepare()
    sampler.take()
    first = (time.perf_counter() - started) * 1e3
    times = []
    for _ in range(num_batches):
        started = time.perf_counter()
        sampler.prepare()
        sampler.take()
        times.append((time.perf_counter() - started) * 1e3)
    return first, times


def bare_product(table: RepresentativeTable, repeats: int) -> float:
    times = []
    for number in range(repeats):
        seeds = torch.arange(number, number + 4, device=table.embeddings_CD.device)
        started = time.perf_counter()
        (table.embeddings_CD[seeds] @ table.embeddings_CD.T)[0, 0].item()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    main()
