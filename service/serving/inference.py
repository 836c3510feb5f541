"""The one thread of a process that runs networks.

Requests queue their prepared images here; the thread takes what has queued up as one batch. One thread, since a
network uses all cores by itself and two at once would only slow each other down.

And no other thread that is still there may ever have run one: OpenMP keeps worker threads for each thread that has,
and once these are more than the cores, its runtime lets them sleep between two steps of a network, which makes a
forward pass up to twice as slow (benchmarks/network_threads.py). `run_in_own_thread` is for such work on the side.
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

# Larger batches take longer an image on a CPU (benchmarks/batch_size.py) and make the first wait for the last.
_MAX_BATCH = 4


@dataclass(frozen=True, slots=True)
class Embedded:
    """One embedding [D], and how long its image waited and ran."""

    embedding: NDArray[np.float32]
    wait_seconds: float
    embed_seconds: float


@dataclass(slots=True)
class _Job:
    embedder: ImageEmbedder
    pixels: NDArray[np.uint8]
    future: Future[Embedded] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)


def run_in_own_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread that ends with it, and return or raise what it does.

    Not an executor: its thread would stay, and an interrupt would wait for it.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            future.set_exception(error)

    thread = threading.Thread(target=run, name="own", daemon=True)
    thread.start()
    # First the outcome, which an interrupt may break off; then the end of the thread itself.
    outcome = future.exception()
    thread.join()
    if outcome is not None:
        raise outcome
    return future.result()


class InferenceThread:
    """Embeds images in the order in which they come, in batches when several wait."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    async def embed(self, embedder: ImageEmbedder, pixels: NDArray[np.uint8]) -> Embedded:
        """Embed one prepared image [H, W, 3]; a caller that is cancelled while it waits frees its place."""
        job = _Job(embedder, pixels)
        self._jobs.put(job)
        return await asyncio.wrap_future(job.future)

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        held: list[_Job | None] = []  # taken from the queue, but not for this batch
        while (first := held.pop() if held else self._jobs.get()) is not None:
            batch = [first]
            while len(batch) < _MAX_BATCH and not held:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                # After a swap some requests still hold the previous release: spaces never mix.
                same_space = job is not None and job.embedder is first.embedder
                (batch if same_space else held).append(job)  # type: ignore[arg-type]  # None is never of the same space
            running = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if running:
                _embed_batch(running)


def _embed_batch(batch: list[_Job]) -> None:
    start = time.perf_counter()
    try:
        embeddings = batch[0].embedder.embed_pixels(np.stack([job.pixels for job in batch]))
    except Exception as error:  # noqa: BLE001  # handed to every waiting request, which logs it
        for job in batch:
            job.future.set_exception(error)
        return
    seconds = time.perf_counter() - start
    for job, embedding in zip(batch, embeddings, strict=True):
        job.future.set_result(Embedded(embedding, start - job.queued_at, seconds))
