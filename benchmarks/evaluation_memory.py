"""What exact retrieval metrics cost at the size of Stanford Online Products, beside the least that they could.

    python benchmarks/evaluation_memory.py [--num 60502] [--dim 512] [--classes 11316] [--device cpu|cuda]

Random embeddings, each against all others: recall@1 to @1000, R-precision, MAP@R. No hit lies near the top, which is
the slowest case. The lower bound computes the same scores by blocks of the same size and forgets them. Prints seconds
and the peak of memory beside the embeddings (RSS, or the device's), each in a process of its own, and exits with 1
when the peak is over 1.5 GiB.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.evaluation.retrieval import evaluate_retrieval

KS = (1, 10, 100, 1000)
BLOCK_BYTES = 2**28
LARGEST_PEAK_BYTES = 1.5 * 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=60_502, help="how many embeddings")
    parser.add_argument("--dim", type=int, default=512, help="their dimension")
    parser.add_argument("--classes", type=int, default=11_316)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    size = (arguments.num, arguments.dim, arguments.classes, arguments.device)
    print(f"{arguments.num:,} × {arguments.dim} embeddings of {arguments.classes:,} classes on {arguments.device}:")
    print(f"{'':12s} {'seconds':>8s} {'peak MiB beside the embeddings':>32s}")
    bound_seconds, bound_bytes = measure_in_child(bare_product, *size)
    print(f"{'bare product':12s} {bound_seconds:8.1f} {bound_bytes / 2**20:32.0f}", flush=True)
    seconds, peak_bytes = measure_in_child(evaluation, *size)
    print(f"{'evaluation':12s} {seconds:8.1f} {peak_bytes / 2**20:32.0f}")
    print(f"{'ratio':12s} {seconds / bound_seconds:8.2f} {peak_bytes / bound_bytes:32.2f}")
    sys.exit(int(peak_bytes > LARGEST_PEAK_BYTES))


Job = Callable[[NDArray[np.float32], NDArray[np.int64], str], None]


def measure_in_child(job: Job, num: int, dim: int, num_classes: int, device: str) -> tuple[float, int]:
    """Run the job in a fresh process, whose peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        return child.submit(measure, job, num, dim, num_classes, device).result()


def measure(job: Job, num: int, dim: int, num_classes: int, device: str) -> tuple[float, int]:
    """Return seconds and the peak of memory over what there was before."""
    job(*made(100, dim, 10), device)  # loads what is loaded once
    embeddings, labels = made(num, dim, num_classes)
    before = memory_bytes("VmRSS")
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    job(embeddings, labels, device)
    seconds = time.perf_counter() - start
    if device != "cpu":
        return seconds, torch.cuda.max_memory_allocated() - embeddings.nbytes
    return seconds, memory_bytes("VmHWM") - before


def made(num: int, dim: int, num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((num, dim), np.float32)
    # No array of squares, which would be a peak of its own.
    embeddings /= np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))[:, None]
    return embeddings, rng.integers(0, num_classes, num)


def memory_bytes(field: str) -> int:
    """Return what Linux knows of this process: VmRSS now, VmHWM the most it ever was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def evaluation(embeddings: NDArray[np.float32], labels: NDArray[np.int64], device: str) -> None:
    evaluate_retrieval(embeddings, labels, ks=KS, device=device, block_bytes=BLOCK_BYTES)


def bare_product(embeddings: NDArray[np.float32], _: NDArray[np.int64], device: str) -> None:
    embeddings_ND = torch.from_numpy(embeddings).to(device)
    height = min(len(embeddings), BLOCK_BYTES // (4 * len(embeddings)))
    scores_BN = embeddings_ND.new_empty(height, len(embeddings))
    for queries_BD in torch.split(embeddings_ND, height):
        torch.mm(queries_BD, embeddings_ND.T, out=scores_BN[: len(queries_BD)])
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
