"""How many threads should decode, and how many run the network: the reason for the defaults of both settings.

    python -m benchmarks.core_split [--photos DIR] [--num-requests 96]

For each split, images are decoded and embedded as in a server, without HTTP: one client measures the latency (p50), 16
clients the throughput. All splits take turns. Queries are drawn JPEG images of 800 x 600, or photos below a folder.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.photos import photos
from embedding.checkpoint import load_embedder, save_checkpoint
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from embedding.runtimes.options import NetworkOptions
from service.installation.pools import OneCall
from service.serving.batching import BatchCosts
from service.serving.calibration import measure_costs
from service.serving.image_queue import Embedded, QueuedImage
from service.serving.inference import InferenceThread, run_in_own_thread

CLIENTS = 16
ROUNDS = 3


@dataclass(slots=True)
class Split:
    """Threads of the network and decoders, and what was measured with them."""

    embedder: Embedder
    num_network: int
    num_decoders: int
    latencies: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="a folder with JPEG photos, searched for at any depth")
    parser.add_argument("--num-requests", type=int, default=96, help="searches with each split and number of clients")
    arguments = parser.parse_args()
    queries = photos(arguments.photos, 32)
    num_cores = len(os.sched_getaffinity(0))
    sizes = sorted({max(1, num_cores // 2), num_cores, 2 * num_cores})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        run_in_own_thread(lambda: save_packaged_model(checkpoint))
        loads = {size: partial(load, checkpoint, size, Path(folder)) for size in sizes if size <= num_cores}
        embedders = {size: run_in_own_thread(one) for size, one in loads.items()}
        splits = [
            Split(embedders[network], network, decoders) for network, decoders in itertools.product(embedders, sizes)
        ]
        for _ in range(ROUNDS):
            for split in splits:
                measure(split, queries, arguments.num_requests // ROUNDS)
    print(f"{'network':>8s} {'decoders':>9s} {'p50 ms, 1 client':>18s} {f'a second, {CLIENTS} clients':>24s}")
    for split in splits:
        p50 = 1000 * statistics.median(split.latencies)
        per_second = statistics.median(split.per_second)
        print(f"{split.num_network:8d} {split.num_decoders:9d} {p50:18.2f} {per_second:24.1f}")


def save_packaged_model(checkpoint: Path) -> None:
    model, preprocessing = create_model(Architecture(), pretrained=True)
    save_checkpoint(checkpoint, model, preprocessing)


def load(checkpoint: Path, num_threads: int, cache_dir: Path) -> Embedder:
    return load_embedder(checkpoint, NetworkOptions("cpu", "float32", "onnxruntime", cache_dir, num_threads))


@contextmanager
def running(split: Split) -> Iterator[Callable[[bytes, BatchCosts], "asyncio.Future[Embedded]"]]:
    """Yield a function that decodes and embeds an image with the threads of a split."""
    embedder = split.embedder

    def decode(image_bytes: bytes) -> NDArray[np.uint8]:
        return embedder.to_pixels(decode_image(image_bytes))

    with ExitStack() as stack:
        decoders = stack.enter_context(ThreadPoolExecutor(split.num_decoders))
        inference = stack.enter_context(closing(InferenceThread(num_decoders=split.num_decoders)))

        def embed(image_bytes: bytes, costs: BatchCosts) -> "asyncio.Future[Embedded]":
            image = QueuedImage(embedder, costs)
            inference.decode_and_embed(image, OneCall(partial(decode, image_bytes)), decoders)
            return asyncio.wrap_future(image.future)

        yield embed


def measure(split: Split, queries: list[bytes], num_requests: int) -> None:
    """Time searches of one client, and of many."""
    images = itertools.cycle(queries)

    async def run() -> None:
        with running(split) as embed:
            costs = await measure_costs(partial(time_run, split.embedder), largest=split.embedder.batch_size)
            for _ in range(num_requests):
                start = time.perf_counter()
                await embed(next(images), costs)
                split.latencies.append(time.perf_counter() - start)

            async def client() -> None:
                for _ in range(max(1, num_requests // CLIENTS)):
                    await embed(next(images), costs)

            start = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            split.per_second.append(CLIENTS * max(1, num_requests // CLIENTS) / (time.perf_counter() - start))

    asyncio.run(run())


async def time_run(embedder: Embedder, num_images: int) -> float:
    size = embedder.preprocessing.image_size
    start = time.perf_counter()
    embedder.embed_pixels(np.zeros((num_images, size, size, 3), np.uint8))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
