"""The one thread of a process that runs networks.

Decoders queue the images of searches, and the thread embeds those that wait as one batch, while the decoders prepare
the next. There is one thread, since a network uses all the cores it was given and two at once would slow each other
down.

Where torch runs networks on a CPU, no other living thread may have run one. OpenMP keeps worker threads for each thread
that has, and when they outnumber the cores, they sleep between the layers of a network, which makes a forward pass up
to twice as slow (benchmarks/network_threads.py). ONNX Runtime has one pool of threads per network instead. Other work
with networks belongs in `run_in_own_thread`, which suits both.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedding.embedder import ImageEmbedder
from service.installation.pools import OneCall
from service.serving.batching import BatchCosts
from service.serving.image_queue import Embedded, ImageQueue, QueuedImage, TimedRun

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is counted of a run of the network: its images, and the seconds for which it waited for more of them."""

    num_images: int
    held_seconds: float


def run_in_own_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread that ends with it, and return its result or raise its exception.

    An executor would keep its thread, and an interrupt would wait for it.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            future.set_exception(error)

    thread = threading.Thread(target=run, name="own", daemon=True)
    thread.start()
    # Wait for the outcome first: an interrupt ends this wait, but would not end join().
    outcome = future.exception()
    thread.join()
    if outcome is not None:
        raise outcome
    return future.result()


class InferenceThread:
    """Embeds images in the order in which they were decoded, in batches if several wait.

    `num_decoders` is the number of threads that decode images for it. `on_run` is called in the thread after each run
    for searches, failed ones included.
    """

    def __init__(
        self,
        *,
        num_decoders: int = 1,
        on_run: Callable[[RunFacts], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._queue = ImageQueue(num_decoders, clock=clock)
        self._on_run = on_run
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    async def embed(
        self, embedder: ImageEmbedder, pixels: NDArray[np.uint8], costs: BatchCosts | None = None
    ) -> Embedded:
        """Embed one image [H, W, 3]; cancelling the caller removes the image from the queue."""
        image = QueuedImage(embedder, costs or BatchCosts.unmeasured(embedder.batch_size))
        self._queue.put(image, pixels)
        return await asyncio.wrap_future(image.future)

    def decode_and_embed(self, image: QueuedImage, decode: OneCall[[], NDArray[np.uint8]], decoders: Executor) -> None:
        """Decode an image in a thread of `decoders`, which passes it on to the network; its future gets the outcome.

        Without the event loop in between, an image is queued even while the loop is busy with other requests.
        """
        self._queue.expect(image)
        # A list, which is emptied: a traceback keeps the arguments of calls.
        decoders.submit(_decode, self._queue, [image], decode)

    def give_up(self, image: QueuedImage) -> None:
        """Remove an image that nobody waits for; does nothing if it has been embedded."""
        image.future.cancel()
        self._queue.give_up(image)

    async def time_run(self, embedder: ImageEmbedder, pixels: NDArray[np.uint8], num_images: int) -> float:
        """Return the seconds of one run with copies of an image [H, W, 3] and nothing else."""
        run = TimedRun(embedder, pixels, num_images)
        self._queue.put_run(run)
        return await asyncio.wrap_future(run.future)

    def close(self) -> None:
        """Embed the images that wait, and end the thread."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Wait for images and embed a batch of them; False at the end.

        A function of its own, so that while the thread waits, it does not hold the model of a release that was served.
        """
        work = self._queue.take()
        if work is None:
            return False
        if isinstance(work, TimedRun):
            self._time(work)
        elif work.images:
            facts = RunFacts(len(work.images), work.held_seconds)
            _embed_batch(work.images, self._clock)
            self._on_run(facts)
        return True

    def _time(self, run: TimedRun) -> None:
        if not run.future.set_running_or_notify_cancel():
            return
        images_NHWC = np.repeat(run.pixels[None], run.num_images, axis=0)
        start = self._clock()
        try:
            run.embedder.embed_pixels(images_NHWC)
        except Exception as error:  # noqa: BLE001  # passed to the caller
            run.future.set_exception(error)
        else:
            run.future.set_result(self._clock() - start)


def _embed_batch(images: list[QueuedImage], clock: Callable[[], float]) -> None:
    start = clock()
    try:
        embeddings = images[0].embedder.embed_pixels(np.stack([image.decoded() for image in images]))
    except Exception as error:  # noqa: BLE001  # passed to each waiting request, which logs it
        _fail(images, error)
        # The traceback refers to this list, and the images to the error: a cycle that would keep the release.
        images.clear()
        return
    end = clock()
    for image, embedding in zip(images, embeddings, strict=True):
        image.future.set_result(Embedded(embedding, image.queued_at, start, end))


def _fail(images: list[QueuedImage], error: BaseException) -> None:
    for image in images:
        with contextlib.suppress(InvalidStateError):  # cancelled in the meantime
            image.future.set_exception(error)


def _decode(queue: ImageQueue, held: list[QueuedImage], decode: OneCall[[], NDArray[np.uint8]]) -> None:
    """Decode an image and put it into the queue; runs in a thread of the decoders."""
    image = held.pop()
    if image.future.cancelled():
        return
    try:
        queue.decoding_started(image)
        queue.put(image, decode())
    except BaseException as error:  # noqa: BLE001  # passed to the search
        queue.give_up(image)
        _fail([image], error)
        del image  # the traceback refers to this frame
