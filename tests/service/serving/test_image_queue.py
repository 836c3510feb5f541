"""Which images run together, and for how long a run is held back; time is a clock that is moved by hand."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest

from service.serving.batching import MAX_WAIT_SECONDS, BatchCosts
from service.serving.image_queue import Batch, ImageQueue, QueuedImage, TimedRun
from tests.fakes import Clock, MeanColourEmbedder

PIXELS = np.zeros((8, 8, 3), np.uint8)
# Waiting for another image pays for up to about 10 ms.
COSTS = BatchCosts.measured({size: 0.050 + 0.0001 * size for size in (1, 2, 4, 8)})
EMBEDDER = MeanColourEmbedder()


class Bench:
    """A queue whose waits run what `events` says will happen next, instead of passing time."""

    def __init__(self, num_decoders=2):
        self.clock = Clock()
        # (seconds from the previous event, function)
        self.events: deque[tuple[float, Callable[[], object]]] = deque()
        self.waits = []
        self.queue = ImageQueue(num_decoders, clock=self.clock, wait=self.wait)

    def wait(self, _condition, seconds):
        self.waits.append(seconds)
        assert seconds is not None or self.events, "would wait for ever"
        if self.events and (seconds is None or self.events[0][0] <= seconds):
            delay, event = self.events.popleft()
            self.clock.seconds += delay
            event()
            return True
        self.clock.seconds += seconds
        return False

    def image(self, embedder=EMBEDDER, costs=COSTS):
        image = QueuedImage(embedder, costs)
        self.queue.expect(image)
        return image

    def decoding(self, embedder=EMBEDDER):
        """Return an image that a decoder has begun with."""
        image = self.image(embedder)
        self.queue.decoding_started(image)
        return image

    def waiting(self, embedder=EMBEDDER):
        """Return an image that was decoded in 4 ms."""
        image = self.decoding(embedder)
        self.clock.seconds += 0.004
        self.queue.put(image, PIXELS)
        return image

    def take(self):
        batch = self.queue.take()
        assert isinstance(batch, Batch)
        return batch


@pytest.fixture
def bench():
    return Bench()


def test_an_image_runs_at_once_if_no_other_is_being_decoded(bench):
    image = bench.waiting()

    batch = bench.take()

    assert batch.images == [image]
    assert batch.held_seconds == 0
    assert bench.waits == []


def test_images_that_wait_run_together_up_to_the_best_size(bench):
    images = [bench.waiting() for _ in range(11)]

    assert COSTS.best == 8
    assert bench.take().images == images[:8]
    assert bench.take().images == images[8:]


def test_a_run_waits_for_an_image_that_is_being_decoded(bench):
    first = bench.waiting()
    second = bench.decoding()
    bench.events.append((0.003, lambda: bench.queue.put(second, PIXELS)))

    batch = bench.take()

    assert batch.images == [first, second]
    assert batch.held_seconds == pytest.approx(0.003)


def test_a_run_waits_for_an_image_that_waits_for_a_decoder(bench):
    bench.queue = ImageQueue(1, clock=bench.clock, wait=bench.wait)
    first, second, third = bench.waiting(), bench.decoding(), bench.image()
    bench.events.append((0.004, lambda: bench.queue.put(second, PIXELS)))
    bench.events.append((0.004, lambda: bench.queue.put(third, PIXELS)))

    assert bench.take().images == [first, second, third]


def test_the_wait_for_a_slow_image_is_bounded(bench):
    first = bench.waiting()
    bench.decoding()

    batch = bench.take()

    assert batch.images == [first]
    assert 0 < batch.held_seconds <= MAX_WAIT_SECONDS


def test_the_wait_is_bounded_however_many_images_arrive(bench):
    for _ in range(3):
        bench.waiting()
    for _ in range(4):
        slow = bench.decoding()
        bench.events.append((0.0039, lambda slow=slow: bench.queue.put(slow, PIXELS)))

    batch = bench.take()

    assert len(batch.images) < 7
    assert batch.held_seconds <= MAX_WAIT_SECONDS


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_a_run_does_not_wait_for_an_image_that_will_not_come(bench, end):
    first, second = bench.waiting(), bench.decoding()

    def give_up():
        if end == "is cancelled":
            second.future.cancel()
        bench.queue.give_up(second)

    bench.events.append((0.001, give_up))

    batch = bench.take()

    assert batch.images == [first]
    assert batch.held_seconds == pytest.approx(0.001)


def test_cancelled_images_leave_the_queue(bench):
    images = [bench.waiting() for _ in range(4)]
    images[0].future.cancel()
    images[2].future.cancel()

    assert bench.take().images == [images[1], images[3]]


def test_the_queue_waits_on_after_the_only_image_was_cancelled(bench):
    bench.waiting().future.cancel()
    late = []
    bench.events.append((1.0, lambda: late.append(bench.waiting())))

    assert bench.take().images == late


def test_images_cancelled_while_a_run_is_held_back_do_not_run(bench):
    first, second = bench.waiting(), bench.decoding()
    bench.events.append((0.001, first.future.cancel))
    bench.events.append((0.001, lambda: bench.queue.put(second, PIXELS)))

    batches = [bench.take(), bench.take()]

    assert [image for batch in batches for image in batch.images] == [second]


def test_a_swap_does_not_mix_embedders_and_keeps_the_order(bench):
    old, new = EMBEDDER, MeanColourEmbedder()
    images = [bench.waiting(embedder) for embedder in (old, old, new, new, old)]

    batches = [bench.take().images for _ in range(3)]

    assert batches == [images[:2], images[2:4], images[4:]]


def test_a_run_does_not_wait_for_images_of_another_embedder(bench):
    first = bench.waiting()
    bench.decoding(MeanColourEmbedder())

    assert bench.take().images == [first]
    assert bench.waits == []


def test_a_run_does_not_wait_while_other_work_is_queued_behind_it(bench):
    first = bench.waiting()
    run = TimedRun(EMBEDDER, PIXELS, 2)
    bench.queue.put_run(run)
    bench.decoding()

    assert bench.take().images == [first]
    assert bench.queue.take() is run
    assert bench.waits == []


def test_a_closed_queue_gives_out_what_waits(bench):
    image = bench.waiting()
    bench.decoding()
    bench.queue.close()

    assert bench.take().images == [image]
    assert bench.queue.take() is None
