"""The best batch size, and when a run of the network waits for more images."""

import pytest

from service.serving.batching import MAX_WAIT_SECONDS, BatchCosts, worthwhile_wait

# Seconds of runs with a large and with a small fixed part: a GPU, and a CPU.
GPU = BatchCosts.measured({size: 0.005 + 0.0001 * size for size in (1, 2, 4, 8, 16, 32, 64)})
CPU = BatchCosts.measured({size: 0.004 + 0.0055 * size for size in (1, 2, 4, 8, 16)})


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [
        ({1: 26, 2: 40, 4: 60, 8: 136, 16: 300}, 4),
        ({1: 9.5, 2: 15, 4: 26, 8: 48, 16: 90}, 16),
        ({1: 10, 2: 20, 4: 40}, 1),
        ({1: 10, 2: 19.6}, 1),  # saves too little
        ({1: 30, 2: 20, 4: 30}, 4),  # the first was disturbed
    ],
)
def test_the_best_size_is_the_smallest_that_is_about_the_cheapest_per_image(milliseconds, best):
    costs = BatchCosts.measured({size: spent / 1000 for size, spent in milliseconds.items()})

    assert costs.best == best


def test_costs_between_and_beyond_measured_sizes_are_derived():
    costs = BatchCosts.measured({1: 10.0, 2: 12.0, 4: 16.0})

    assert costs.best == 4
    assert [costs.run_seconds(num_images) for num_images in (0, 1, 3, 4, 5, 8)] == [0.0, 10.0, 14.0, 16.0, 26.0, 32.0]


def test_a_larger_batch_never_costs_less_time_than_a_smaller_one():
    costs = BatchCosts.measured({1: 30.0, 2: 20.0, 4: 40.0})

    assert dict(costs.seconds) == {1: 20.0, 2: 20.0, 4: 40.0}


@pytest.mark.parametrize("costs", [CPU, GPU, BatchCosts.unmeasured(16)])
def test_a_lone_image_never_waits(costs):
    assert worthwhile_wait(costs, 1, []) == 0.0


def test_an_image_waits_if_runs_have_a_large_fixed_cost():
    """One run for both ends sooner on average than two, if the second image arrives soon."""
    assert worthwhile_wait(GPU, 1, [0.001]) == 0.001
    assert worthwhile_wait(GPU, 1, [0.004]) == 0.0


def test_an_image_does_not_wait_if_the_cost_of_a_run_is_mostly_that_of_its_images():
    """Two runs, one after the other, then end sooner on average than one for both."""
    assert worthwhile_wait(CPU, 1, [0.001]) == 0.0
    assert worthwhile_wait(CPU, 1, [0.0]) == 0.0


def test_a_run_waits_for_as_many_images_as_pay():
    soon = [0.0002, 0.0004, 0.0006]

    assert worthwhile_wait(GPU, 1, soon) == 0.0006
    assert worthwhile_wait(GPU, 1, [*soon, 0.009]) == 0.0006


def test_a_full_batch_does_not_wait():
    assert worthwhile_wait(GPU, GPU.best, [0.0001] * 8) == 0.0


def test_unmeasured_costs_never_wait():
    assert worthwhile_wait(BatchCosts.unmeasured(64), 1, [0.0, 0.0]) == 0.0


def test_no_wait_exceeds_its_bound():
    slow = BatchCosts.measured({size: 10.0 + 0.001 * size for size in (1, 2, 4, 8)})

    waits = [worthwhile_wait(slow, 1, [seconds, 2 * seconds]) for seconds in (0.001, 0.004, 0.009, 0.011, 1.0)]

    assert waits == [0.002, 0.008, 0.009, 0.0, 0.0]
    assert max(waits) <= MAX_WAIT_SECONDS
