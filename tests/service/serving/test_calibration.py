"""What runs of a network cost is measured once; the fake networks state their costs, on a clock moved by hand."""

import asyncio
from contextlib import closing
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from service.releases.files import LoadedRelease
from service.serving.calibration import Calibration, measure_costs
from service.serving.inference import InferenceThread
from tests.fakes import Clock, MeanColourEmbedder

PIXELS = np.zeros((8, 8, 3), np.uint8)


class CostedEmbedder(MeanColourEmbedder):
    """Moves a clock by what a run costs: a fixed part, and a part for each image."""

    batch_size = 16

    def __init__(self, clock, fixed_seconds=0.004, image_seconds=0.0055):
        self.clock = clock
        self.fixed_seconds, self.image_seconds = fixed_seconds, image_seconds
        self.batches = []

    def embed_pixels(self, pixels_NHWC):
        self.batches.append(len(pixels_NHWC))
        self.clock.seconds += self.fixed_seconds + self.image_seconds * len(pixels_NHWC)
        return super().embed_pixels(pixels_NHWC)


def measured(seconds_of, *, largest, **options):
    """Return the costs, and the sizes that were run."""
    sizes = []

    async def run(num_images):
        sizes.append(num_images)
        return seconds_of(num_images)

    return asyncio.run(measure_costs(run, largest=largest, **options)), sizes


def test_sizes_double_up_to_the_largest():
    costs, sizes = measured(lambda size: 0.004 + 0.001 * size, largest=24, budget_seconds=60.0)

    assert sorted(set(sizes)) == [1, 2, 4, 8, 16, 24]
    assert costs.seconds == {size: pytest.approx(0.004 + 0.001 * size) for size in (1, 2, 4, 8, 16, 24)}


def test_larger_sizes_are_not_tried_where_they_are_no_cheaper_per_image():
    """As with eager torch on a CPU, whose caches are too small for large batches."""
    costs, sizes = measured(lambda size: size * (0.02 if size <= 4 else 0.04) + 0.02, largest=64, budget_seconds=60.0)

    assert max(sizes) == 16
    assert costs.best == 4


def test_one_disturbed_run_does_not_decide():
    disturbed = iter([0.5])
    costs, _ = measured(
        lambda size: next(disturbed, 0.002) if size == 2 else 0.004 + 0.0055 * size, largest=16, budget_seconds=60.0
    )

    assert costs.best == 2


def test_a_slow_network_is_measured_within_the_budget():
    costs, sizes = measured(lambda size: 2.0 * size, largest=64, budget_seconds=1.5)

    assert sizes == [1]
    assert costs.best == 1


def release_of(embedder, architecture="conv4"):
    facts = {"architecture": {"backbone": architecture}}
    return cast(LoadedRelease, SimpleNamespace(embedder=embedder, facts=facts))


def test_networks_that_differ_only_in_their_weights_are_measured_once():
    clock = Clock()
    first, retrained, larger = (CostedEmbedder(clock) for _ in range(3))

    async def run(inference):
        calibration = Calibration(inference)
        costs = [await calibration.costs_of(release_of(embedder), PIXELS) for embedder in (first, retrained)]
        return [*costs, await calibration.costs_of(release_of(larger, "lite0"), PIXELS)]

    with closing(InferenceThread(clock=clock)) as inference:
        costs, same, others = asyncio.run(run(inference))

    assert same is costs
    assert costs.best == 8  # 16 would save 4 % per image
    assert others.seconds == {size: pytest.approx(0.004 + 0.0055 * size) for size in (1, 2, 4, 8, 16)}
    assert set(first.batches) == {1, 2, 4, 8, 16}
    assert retrained.batches == []


def test_an_error_of_the_network_ends_the_measurement():
    class BrokenEmbedder(MeanColourEmbedder):
        def embed_pixels(self, pixels_NHWC):
            raise RuntimeError("out of memory")

    with closing(InferenceThread()) as inference, pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(Calibration(inference).costs_of(release_of(BrokenEmbedder()), PIXELS))
