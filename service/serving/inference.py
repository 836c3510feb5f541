"""The one thread of a process that runs networks.

Requests queue their images here, and the thread embeds the images that wait as one batch. There is one thread, since a
network uses all cores and two at once would slow each other down.

No other living thread may have run a network. OpenMP keeps worker threads for each thread that has, and when they
outnumber the cores, they sleep between the layers of a network, which makes a forward pass up to twice as slow
(benchmarks/network_threads.py). Other work with networks belongs in `run_in_own_thread`.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedding.embedder import ImageEmbedder

T = TypeVar("T")

# On a CPU, larger batches take longer per image (benchmarks/batch_size.py) and delay the first image of the batch.
_MAX_BATCH = 4


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedding [D], with the seconds that its image waited and that its batch took."""

    embedding: NDArray[np.float32]
    wait_seconds: float
    embed_seconds: float


@dataclass(slots=True)
class _QueuedImage:
    embedder: ImageEmbedder
    pixels: NDArray[np.uint8]
    future: Future[Embedded] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)


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
    """Embeds images in the order of arrival, in batches if several wait."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_QueuedImage | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    async def embed(self, embedder: ImageEmbedder, pixels: NDArray[np.uint8]) -> Embedded:
        """Embed one image [H, W, 3]; cancelling the caller removes the image from the queue."""
        image = _QueuedImage(embedder, pixels)
        self._queue.put(image)
        return await asyncio.wrap_future(image.future)

    def close(self) -> None:
        """Embed the images that wait, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_batch: list[_QueuedImage | None] = []  # taken from the queue, but not for this batch
        while self._embed_next(next_batch):
            pass

    def _embed_next(self, next_batch: list[_QueuedImage | None]) -> bool:
        """Wait for images and embed a batch of them; False at the end.

        A function of its own, so that while the thread waits, it does not hold the model of a release that was served.
        """
        first = next_batch.pop() if next_batch else self._queue.get()
        if first is None:
            return False
        batch = [first]
        while len(batch) < _MAX_BATCH and not next_batch:
            try:
                image = self._queue.get_nowait()
            except queue.Empty:
                break
            # After a swap, requests that hold the previous release may wait beside those that hold the new one.
            if image is not None and image.embedder is first.embedder:
                batch.append(image)
            else:
                next_batch.append(image)
        running = [image for image in batch if image.future.set_running_or_notify_cancel()]
        if running:
            _embed_batch(running)
        return True


def _embed_batch(batch: list[_QueuedImage]) -> None:
    start = time.perf_counter()
    try:
        embeddings = batch[0].embedder.embed_pixels(np.stack([image.pixels for image in batch]))
    except Exception as error:  # noqa: BLE001  # passed to each waiting request, which logs it
        for image in batch:
            image.future.set_exception(error)
        return
    seconds = time.perf_counter() - start
    for image, embedding in zip(batch, embeddings, strict=True):
        image.future.set_result(Embedded(embedding, start - image.queued_at, seconds))
