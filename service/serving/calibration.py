"""Measure what runs of a network cost, before searches use it."""

from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import canonical_json
from service.releases.files import LoadedRelease
from service.serving.batching import BatchCosts
from service.serving.inference import InferenceThread

_LATER_ROUNDS = 3
# Most networks need less than a second. On a machine that is busy while a server starts, few runs are undisturbed.
_BUDGET_SECONDS = 4.0
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
                return await self._inference.time_run(embedder, pixels, num_images)

            self._known[kind] = await measure_costs(run, largest=embedder.batch_size)
        return self._known[kind]


async def measure_costs(
    run: Callable[[int], Awaitable[float]], *, largest: int, budget_seconds: float = _BUDGET_SECONDS
) -> BatchCosts:
    """Time runs of 1, 2, 4, ... images up to `largest`, until larger ones are no cheaper or the budget is spent.

    `run` embeds so many images and returns the seconds. Each run is a call of its own, so that searches of a release
    that is being replaced come between two of them.
    """
    costs = _Costs(run, budget_seconds)
    num_dearer, size = 0, 1
    while True:
        # The first run of a size allocates memory.
        await costs.measure(size, num_runs=2)
        num_dearer = 0 if costs.is_cheapest(size) else num_dearer + 1
        if size == largest or num_dearer == _PATIENCE or costs.is_budget_spent:
            break
        size = min(2 * size, largest)
    # In turn, so that other work of the machine for a moment does not affect one size only.
    for size in _LATER_ROUNDS * list(costs.seconds):
        await costs.measure(size, num_runs=1)
    return BatchCosts.measured(costs.seconds)


class _Costs:
    """The least seconds of runs of each size, and the budget."""

    def __init__(self, run: Callable[[int], Awaitable[float]], budget_seconds: float) -> None:
        self._run = run
        self._left_seconds = budget_seconds
        self.seconds: dict[int, float] = {}

    @property
    def is_budget_spent(self) -> bool:
        """Whether no further run is measured."""
        return self._left_seconds <= 0

    async def measure(self, size: int, *, num_runs: int) -> None:
        """Measure runs of one size: at least one the first time, otherwise while the budget lasts."""
        for _ in range(num_runs):
            if self.is_budget_spent and size in self.seconds:
                return
            seconds = await self._run(size)
            self._left_seconds -= seconds
            self.seconds[size] = min(seconds, self.seconds.get(size, seconds))

    def is_cheapest(self, size: int) -> bool:
        """Return whether this size costs less per image than all smaller ones."""
        cost = self.seconds[size] / size
        return all(cost < seconds / other for other, seconds in self.seconds.items() if other != size)
