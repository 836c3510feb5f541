"""Time per image of the network at several batch sizes, with both runtimes of a CPU: the reason for their batch sizes.

    python benchmarks/batch_size.py [--num-images 64]

Prints milliseconds per image, and the ratio to the best batch size of the runtime.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from embedding.embedder import Embedder
from embedding.model import Architecture, create_model
from embedding.runtimes.options import NetworkOptions, RuntimeName

RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "torch")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=64)
    num_images = parser.parse_args().num_images
    model, preprocessing = create_model(Architecture(), pretrained=True)
    size = preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, size, size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as cache_dir:
        for runtime in RUNTIMES:
            options = NetworkOptions("cpu", runtime=runtime, cache_dir=Path(cache_dir))
            embedder = Embedder(model, preprocessing, options, batch_size=max(BATCH_SIZES))
            seconds = dict.fromkeys(BATCH_SIZES, float("inf"))
            # Rounds interleave the sizes, so that a busy moment of a shared machine does not affect only one of them.
            for _ in range(ROUNDS):
                for batch_size in BATCH_SIZES:
                    embedder.embed_pixels(pixels[:batch_size])
                    start = time.perf_counter()
                    for first in range(0, num_images, batch_size):
                        embedder.embed_pixels(pixels[first : first + batch_size])
                    seconds[batch_size] = min(seconds[batch_size], time.perf_counter() - start)
            best = min(seconds.values())
            print(embedder.runtime)
            for batch_size, total in seconds.items():
                print(f"batch {batch_size:3d}  {1000 * total / num_images:7.2f} ms/image  {total / best:5.2f} × best")


if __name__ == "__main__":
    main()
