"""Latency of models for one image, measured in turns so that noise of the machine affects all alike."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from embedding.embedder import ImageEmbedder

_WARM_UP_ROUNDS = 3


def median_latencies(
    embedders: Sequence[ImageEmbedder],
    images: Sequence[Sequence[NDArray[np.uint8]] | NDArray[np.uint8]],
    rounds: int = 20,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return the median milliseconds that each model takes to embed one image.

    `images` contains for each model the same images, prepared by its `to_pixels`: [H, W, 3] each, or one array
    [N, H, W, 3]. In every round each model embeds the same image, in rotating order, so that no model always finds
    warm caches. The first rounds are not counted. Raises ValueError without images or rounds.
    """
    if len(images) != len(embedders) or len({len(prepared) for prepared in images}) > 1:
        raise ValueError(f"want the same images for each of {len(embedders)} models, got {[*map(len, images)]}")
    if rounds < 1 or any(len(prepared) == 0 for prepared in images):
        raise ValueError(f"want at least one round and one image, got {rounds} and {[*map(len, images)]}")
    seconds: list[list[float]] = [[] for _ in embedders]
    for number in range(rounds + _WARM_UP_ROUNDS):
        for place in range(len(embedders)):
            turn = (number + place) % len(embedders)
            image_1HWC = images[turn][number % len(images[turn])][None]
            before = clock()
            # Returns an array on the CPU, so a GPU has finished.
            embedders[turn].embed_pixels(image_1HWC)
            elapsed = clock() - before
            if number >= _WARM_UP_ROUNDS:
                seconds[turn].append(elapsed)
    return [1000 * statistics.median(times) for times in seconds]
