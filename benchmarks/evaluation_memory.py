"""Time and memory of exact retrieval metrics at the size of Stanford Online Products, against a lower bound.

    python benchmarks/evaluation_memory.py [--num 60502] [--dim 512] [--classes 11316] [--device cpu|cuda]

Random embeddings, each against all others: recall@1 to @1000, R-precision, MAP@R. Relevant items rank low, which is the
slowest case. The lower bound computes the same scores in blocks of the same size and discards them. Prints seconds and
the peak memory in addition to the embeddings (RSS, or that of the device), each measured in a separate process. Exits
with status 1 if the peak exceeds 1.5 GiB.
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
    parser.add_argument("--num", type=int, default=60_502, help="number of embeddings")
    parser.add_argument("--dim", type=int, default=512, help="dimension of the embeddings")
    parser.add_argument("--classes", type=int, default=11_316)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    size = (arguments.num, arguments.dim, arguments.classes, arguments.device)
    print(f"{arguments.num:,} × {arguments.dim} embeddings of {arguments.classes:,} classes on {arguments.device}:")
    print(f"{'':12s} {'seconds':>8s} {'peak MiB besides the embeddings':>32s}")
    bound_seconds, bound_bytes = measure_in_child(bare_product, *size)
    print(f"{'bare product':12s} {bound_seconds:8.1f} {bound_bytes / 2**20:32.0f}", flush=True)
    seconds, peak_bytes = measure_in_child(evaluation, *size)
    print(f"{'evaluation':12s} {seconds:8.1f} {peak_bytes / 2**20:32.0f}")
    print(f"{'ratio':12s} {seconds / bound_seconds:8.2f} {peak_bytes / bound_bytes:32.2f}")
    sys.exit(int(peak_bytes > LARGEST_PEAK_BYTES))


Job = Callable[[NDArray[np.float32], NDArray[np.int64], str], None]


def measure_in_child(job: Job, num: int, dim: int, num_classes: int, device: str) -> tuple[float, int]:
    """Run the job in a new process, so that its peak memory is measured alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        return child.submit(measure, job, num, dim, num_classes, device).result()


def measure(job: Job, num: int, dim: int, num_classes: int, device: str) -> tuple[float, int]:
    """Return the seconds, and the peak memory in addition to the memory used before."""
    job(*random_embeddings(100, dim, 10), device)  # loads libraries and kernels
    embeddings, labels = random_embeddings(num, dim, num_classes)
    before = memory_bytes("VmRSS")
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    job(embeddings, labels, device)
    seconds = time.perf_counter() - start
    if device != "cpu":
        return seconds, torch.cuda.max_memory_allocated() - embeddings.nbytes
    return seconds, memory_bytes("VmHWM") - before


def random_embeddings(num: int, dim: int, num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((num, dim), np.float32)
    # Without an array of squares, which would raise the peak memory.
    embeddings /= np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings))[:, None]
    return embeddings, rng.integers(0, num_classes, num)


def memory_bytes(field: str) -> int:
    """Return a field of /proc/self/status: VmRSS is the current memory, VmHWM the peak."""
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
