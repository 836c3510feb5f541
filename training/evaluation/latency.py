"""How long models take for one image, measured side by side so that the machine's noise hits all alike."""

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

    `images` holds for each model the same images as its `to_pixels` prepared them: [H, W, 3] each, or one array
    [N, H, W, 3]. In every round each model embeds the same image, and the order goes round, so that none is always
    the one that finds the caches warm. The first rounds are not counted. Raises ValueError without images or rounds.
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
            # The embeddings come back as an array of the CPU: a GPU has finished by then.
            embedders[turn].embed_pixels(image_1HWC)
            elapsed = clock() - before
            if number >= _WARM_UP_ROUNDS:
                seconds[turn].append(elapsed)
    return [1000 * statistics.median(times) for times in seconds]
