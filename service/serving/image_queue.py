"""The images that wait for the network, and those that are still being decoded for it."""

import heapq
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedding.embedder import ImageEmbedder
from service.serving.batching import MAX_WAIT_SECONDS, BatchCosts, worthwhile_wait

# The share of the latest image in the mean time to decode one.
_SMOOTHING = 0.1
# A decoder that takes longer than expected is waited for no longer than this many times the expected time.
_PATIENCE = 2.0

Wait = Callable[[threading.Condition, float | None], object]


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding [D], and the times at which its image was queued and at which its run started and ended."""

    embedding: NDArray[np.float32]
    queued_at: float
    started_at: float
    ended_at: float


@dataclass(slots=True, eq=False)
class QueuedImage:
    """An image [H, W, 3] on its way to the network of one release."""

    embedder: ImageEmbedder
    costs: BatchCosts
    future: Future[Embedded] = field(default_factory=Future)
    pixels: NDArray[np.uint8] | None = None  # None while it is being decoded
    decoding_since: float | None = None
    queued_at: float = 0.0

    def decoded(self) -> NDArray[np.uint8]:
        """Return the pixels of an image that has been put into the queue."""
        assert self.pixels is not None
        return self.pixels

    def has_failed_in_network(self) -> bool:
        """Whether the network has failed for this image, rather than its decoding."""
        future = self.future
        return self.pixels is not None and future.done() and not future.cancelled() and future.exception() is not None


@dataclass(slots=True, eq=False)
class TimedRun:
    """A run of the network with copies of one image [H, W, 3] and nothing else, whose seconds are wanted."""

    embedder: ImageEmbedder
    pixels: NDArray[np.uint8]
    num_images: int
    future: Future[float] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one embedder that are embedded together, and the seconds for which they were held back for others."""

    images: list[QueuedImage]
    held_seconds: float


class ImageQueue:
    """A queue of images, which one thread takes in batches; all other methods may be called by any thread.

    Images are taken in the order in which they were put, and only images of the same embedder share a batch: after a
    swap, requests that hold the previous release may wait beside those that hold the new one.
    """

    def __init__(self, num_decoders: int, *, clock: Callable[[], float], wait: Wait = threading.Condition.wait) -> None:
        self._num_decoders = num_decoders
        self._clock, self._wait = clock, wait
        self._changed = threading.Condition()
        self._items: deque[QueuedImage | TimedRun] = deque()
        self._undecoded: dict[QueuedImage, None] = {}  # in the order of their requests
        self._decode_seconds = 0.0
        self._is_closed = False

    def expect(self, image: QueuedImage) -> None:
        """Count an image as being decoded, until it is put into the queue or given up."""
        with self._changed:
            self._undecoded[image] = None

    def give_up(self, image: QueuedImage) -> None:
        """Expect an image no longer that could not be decoded, or that nobody wants."""
        with self._changed:
            if image in self._undecoded:
                del self._undecoded[image]
                self._changed.notify()

    def decoding_started(self, image: QueuedImage) -> None:
        """Note that a decoder has begun with an expected image."""
        image.decoding_since = self._clock()

    def put(self, image: QueuedImage, pixels: NDArray[np.uint8]) -> None:
        """Queue an image that has been decoded; its future gets the outcome, and cancelling the future removes it."""
        now = self._clock()
        with self._changed:
            image.pixels, image.queued_at = pixels, now
            self._undecoded.pop(image, None)
            if image.decoding_since is not None:
                seconds = now - image.decoding_since
                mean = self._decode_seconds or seconds
                self._decode_seconds = mean + _SMOOTHING * (seconds - mean)
            self._items.append(image)
            self._changed.notify()

    def put_run(self, run: TimedRun) -> None:
        """Queue a run by itself."""
        with self._changed:
            self._items.append(run)
            self._changed.notify()

    def close(self) -> None:
        """Let `take` return None once the queue is empty."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self) -> Batch | TimedRun | None:
        """Wait for images, and for more of them while that pays; None after the queue has been closed."""
        with self._changed:
            self._drop_cancelled()
            while not self._items:
                if self._is_closed:
                    return None
                self._wait(self._changed, None)
                self._drop_cancelled()
            started_at = self._clock()
            held_seconds = 0.0
            while (seconds := self._wait_seconds(started_at)) > 0:
                num_items = len(self._items)
                has_news = self._wait(self._changed, seconds) or len(self._items) != num_items
                held_seconds = self._clock() - started_at
                if not has_news:
                    break
                self._drop_cancelled()
            return self._taken(held_seconds)

    def _drop_cancelled(self) -> None:
        if any(item.future.cancelled() for item in self._items):
            self._items = deque(item for item in self._items if not item.future.cancelled())

    def _taken(self, held_seconds: float) -> Batch | TimedRun | None:
        """Return what runs next; a batch may be empty if its images have been cancelled."""
        if not self._items:
            return Batch([], 0.0)
        if isinstance(first := self._items[0], TimedRun):
            self._items.popleft()
            return first
        images = [self._items.popleft() for _ in self._together()]
        running = [image for image in images if image.future.set_running_or_notify_cancel()]
        return Batch([image for image in running if isinstance(image, QueuedImage)], held_seconds)

    def _together(self) -> list[QueuedImage]:
        """Return the first images of the queue that may share a batch."""
        together: list[QueuedImage] = []
        for item in self._items:
            if isinstance(item, TimedRun) or (together and item.embedder is not together[0].embedder):
                break
            if together and len(together) >= together[0].costs.best:
                break
            together.append(item)
        return together

    def _wait_seconds(self, started_at: float) -> float:
        """Return for how long the next run waits for another image; 0 if it starts now."""
        together = self._together()
        # Behind other work in the queue, nothing that arrives later could join this run.
        if not together or len(together) < len(self._items) or self._is_closed:
            return 0.0
        costs, now = together[0].costs, self._clock()
        wanted = worthwhile_wait(costs, len(together), self._arrivals(together[0].embedder, now))
        left = started_at + MAX_WAIT_SECONDS - now
        return min(_PATIENCE * wanted, left)

    def _arrivals(self, embedder: ImageEmbedder, now: float) -> list[float]:
        """Return the expected seconds until the images arrive that are being decoded for `embedder`, ascending."""
        arrivals: list[float] = []
        is_ours: list[bool] = []
        decoders: list[float] = []  # when each decoder will be free
        for image in self._undecoded:
            if image.decoding_since is not None:
                decoders.append(max(0.0, self._decode_seconds - (now - image.decoding_since)))
                arrivals.append(decoders[-1])
                is_ours.append(image.embedder is embedder)
        decoders += [0.0] * (self._num_decoders - len(decoders))
        heapq.heapify(decoders)
        for image in self._undecoded:
            if image.decoding_since is None:
                arrivals.append(heapq.heappop(decoders) + self._decode_seconds)
                is_ours.append(image.embedder is embedder)
                heapq.heappush(decoders, arrivals[-1])
        return sorted(seconds for seconds, ours in zip(arrivals, is_ours, strict=True) if ours)
