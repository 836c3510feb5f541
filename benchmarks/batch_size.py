"""Time per image of the network at several batch sizes: the reason for batches of four on a CPU.

    python benchmarks/batch_size.py [--num-images 64]

Prints milliseconds per image, and the ratio to the best batch size.
"""

import argparse
import time

import numpy as np

from embedding.embedder import Embedder
from embedding.model import Architecture, create_model

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=64)
    num_images = parser.parse_args().num_images
    model, preprocessing = create_model(Architecture(), pretrained=True)
    size = preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, size, size, 3), np.uint8)

    seconds = dict.fromkeys(BATCH_SIZES, float("inf"))
    # Rounds interleave the sizes, so that a busy moment of a shared machine does not affect only one of them.
    for _ in range(ROUNDS):
        for batch_size in BATCH_SIZES:
            embedder = Embedder(model, preprocessing, batch_size=batch_size)
            embedder.embed_pixels(pixels[:batch_size])
            start = time.perf_counter()
            embedder.embed_pixels(pixels)
            seconds[batch_size] = min(seconds[batch_size], time.perf_counter() - start)

    best = min(seconds.values())
    for batch_size, total in seconds.items():
        print(f"batch {batch_size:3d}  {1000 * total / num_images:7.2f} ms/image  {total / best:5.2f} × best")


if __name__ == "__main__":
    main()
