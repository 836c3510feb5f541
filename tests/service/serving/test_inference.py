import asyncio
import threading

import numpy as np
import pytest

from service.serving.inference import InferenceThread, run_in_own_thread
from tests.fakes import MeanColourEmbedder


class SlowEmbedder(MeanColourEmbedder):
    """Waits for `go`, and records the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.batches = []

    def embed_pixels(self, pixels_NHWC):
        self.batches.append(len(pixels_NHWC))
        assert self.go.wait(10)
        return super().embed_pixels(pixels_NHWC)


@pytest.fixture
def inference():
    thread = InferenceThread()
    yield thread
    thread.close()


def pixels(value):
    return np.full((8, 8, 3), value, np.uint8)


async def started(embedder):
    while not embedder.batches:
        await asyncio.sleep(0.001)


def test_each_caller_gets_its_own_embedding(inference):
    async def run():
        embedder = MeanColourEmbedder()
        results = await asyncio.gather(*(inference.embed(embedder, pixels(value)) for value in range(20)))
        return embedder, results

    embedder, results = asyncio.run(run())

    for value, result in enumerate(results):
        np.testing.assert_array_equal(result.embedding, embedder.embed_pixels(pixels(value)[None])[0])
        assert result.queued_at <= result.started_at <= result.ended_at


def test_waiting_images_become_one_batch(inference):
    async def run():
        embedder = SlowEmbedder()
        tasks = [asyncio.create_task(inference.embed(embedder, pixels(0)))]
        await started(embedder)
        tasks += [asyncio.create_task(inference.embed(embedder, pixels(value))) for value in range(6)]
        await asyncio.sleep(0)
        embedder.go.set()
        await asyncio.gather(*tasks)
        return embedder.batches

    assert asyncio.run(run()) == [1, 4, 2]


def test_embedders_of_different_releases_never_share_a_batch(inference):
    async def run():
        first, second = SlowEmbedder(), SlowEmbedder()
        second.go.set()
        tasks = [asyncio.create_task(inference.embed(first, pixels(0)))]
        await started(first)
        for embedder in (first, second, second, first):
            tasks.append(asyncio.create_task(inference.embed(embedder, pixels(1))))
        await asyncio.sleep(0)
        first.go.set()
        await asyncio.gather(*tasks)
        return first.batches, second.batches

    assert asyncio.run(run()) == ([1, 1, 1], [2])


def test_a_cancelled_image_is_not_embedded(inference):
    async def run():
        embedder = SlowEmbedder()
        first = asyncio.create_task(inference.embed(embedder, pixels(0)))
        await started(embedder)
        cancelled = asyncio.create_task(inference.embed(embedder, pixels(1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        embedder.go.set()
        await first
        await inference.embed(embedder, pixels(2))
        return embedder.batches

    assert asyncio.run(run()) == [1, 1]


def test_work_in_an_own_thread_leaves_no_thread_behind():
    """OpenMP keeps worker threads for each living thread that has run a network, which slows all of them down."""
    before = set(threading.enumerate())

    assert run_in_own_thread(lambda: threading.current_thread().name) == "own"
    with pytest.raises(ZeroDivisionError):
        run_in_own_thread(lambda: 1 / 0)

    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


def test_an_error_reaches_every_caller_and_the_thread_continues(inference):
    class BrokenEmbedder(MeanColourEmbedder):
        def embed_pixels(self, pixels_NHWC):
            raise RuntimeError("out of memory")

    async def run():
        broken = BrokenEmbedder()
        calls = [inference.embed(broken, pixels(0)) for _ in range(3)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        return outcomes, await inference.embed(MeanColourEmbedder(), pixels(0))

    outcomes, after = asyncio.run(run())

    assert all(str(outcome) == "out of memory" for outcome in outcomes)
    assert after.embedding.shape == (4,)
