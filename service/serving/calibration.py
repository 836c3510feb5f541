"""Measure what runs of a network cost, before searches use it."""

from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import canonical_json
from service.releases.files import LoadedRelease
from service.serving.batching import BatchCosts
from service.serving.inference import InferenceThread

_RUNS_PER_SIZE = 3
_BUDGET_SECONDS = 1.5
# Larger sizes are not tried after so many in succession that were no cheaper per image. One could be a disturbance.
_PATIENCE = 2


class Calibration:
    """Measures each kind of network once per process: models that differ only in their weights cost the same.

    So a swap to a retrained model costs the searches that go on nothing.
    """

    def __init__(self, inference: InferenceThread) -> None:
        self._inference = inference
        self._known: dict[tuple[str, int, bytes], BatchCosts] = {}

    async def costs_of(self, release: LoadedRelease, pixels: NDArray[np.uint8]) -> BatchCosts:
        """Return the costs of a release's network, measured with copies of one image [H, W, 3]."""
        embedder = release.embedder
        kind = (embedder.runtime, embedder.batch_size, canonical_json([release.facts["architecture"], pixels.shape]))
        if kind not in self._known:

            async def run(num_images: int) -> float:
                return await self._inference.time_run(embedder, np.repeat(pixels[None], num_images, axis=0))

            self._known[kind] = await measure_costs(run, largest=embedder.batch_size)
        return self._known[kind]


async def measure_costs(
    run: Callable[[int], Awaitable[float]], *, largest: int, budget_seconds: float = _BUDGET_SECONDS
) -> BatchCosts:
    """Time runs of 1, 2, 4, ... images up to `largest`, until larger ones are no cheaper or the budget is spent.

    `run` embeds so many images and returns the seconds. Each run is a call of its own, so that searches of a release
    that is being replaced come between two of them.
    """
    seconds: dict[int, float] = {}
    spent = 0.0
    num_dearer = 0
    size = 1
    while True:
        least = float("inf")
        for _ in range(_RUNS_PER_SIZE):
            # The first run of a size allocates memory; the least time has no such extras.
            one = await run(size)
            least, spent = min(least, one), spent + one
            if spent > budget_seconds:
                break
        is_cheaper = all(least / size < other / smaller for smaller, other in seconds.items())
        num_dearer = 0 if is_cheaper else num_dearer + 1
        seconds[size] = least
        if size == largest or num_dearer == _PATIENCE or spent > budget_seconds:
            return BatchCosts.measured(seconds)
        size = min(2 * size, largest)
