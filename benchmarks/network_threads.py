"""The slowdown of a network by a second thread that has run it: the reason for one inference thread per process.

    python benchmarks/network_threads.py

Prints the p50 of a forward pass in one thread: alone, while a second thread that has run the network once is idle, and
after that thread has ended.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from embedding.runtimes.options import NetworkOptions

PASSES = 60


def main() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)

    def build() -> Embedder:
        model, preprocessing = create_model(Architecture(), pretrained=True)
        return Embedder(model, preprocessing, NetworkOptions("cpu"))

    def forward() -> float:
        times = []
        for _ in range(PASSES):
            start = time.perf_counter()
            embedder.embed_pixels(pixels)
            times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)

    with ThreadPoolExecutor(1) as first:
        # The network is also built in this thread, since the main thread must not have run parallel work.
        embedder = first.submit(build).result()
        first.submit(forward).result()
        alone = first.submit(forward).result()
        with ThreadPoolExecutor(1) as second:
            second.submit(embedder.embed_pixels, pixels).result()
            with_second = first.submit(forward).result()
        after = first.submit(forward).result()
    for name, milliseconds in (("alone", alone), ("with a second", with_second), ("after it ended", after)):
        print(f"{name:15s} {milliseconds:6.1f} ms  {milliseconds / alone:5.2f} × alone")


if __name__ == "__main__":
    main()
