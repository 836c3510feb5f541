import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from service.installation.pools import OneCall
from service.serving.batching import BatchCosts
from service.serving.image_queue import QueuedImage
from service.serving.inference import InferenceThread, RunFacts, run_in_own_thread
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


def test_a_decoder_passes_its_image_on_to_the_network(inference):
    embedder = MeanColourEmbedder()
    image = QueuedImage(embedder, BatchCosts.unmeasured(4))

    with ThreadPoolExecutor(1) as decoders:
        inference.decode_and_embed(image, OneCall(lambda: pixels(7)), decoders)
        result = image.future.result(20)

    np.testing.assert_array_equal(result.embedding, embedder.embed_pixels(pixels(7)[None])[0])
    assert not image.has_failed_in_network()


def test_an_image_that_cannot_be_decoded_fails_alone(inference):
    images = [QueuedImage(MeanColourEmbedder(), BatchCosts.unmeasured(4)) for _ in range(2)]

    with ThreadPoolExecutor(1) as decoders:
        inference.decode_and_embed(images[0], OneCall(lambda: 1 // 0), decoders)
        inference.decode_and_embed(images[1], OneCall(lambda: pixels(0)), decoders)
        error = images[0].future.exception(20)
        images[1].future.result(20)

    assert isinstance(error, ZeroDivisionError)
    assert not images[0].has_failed_in_network()


def test_an_image_that_is_given_up_while_it_waits_for_a_decoder_is_not_decoded(inference):
    may_decode, decoded = threading.Event(), []
    image = QueuedImage(MeanColourEmbedder(), BatchCosts.unmeasured(4))
    with ThreadPoolExecutor(1) as decoders:
        decoders.submit(may_decode.wait, 20)
        inference.decode_and_embed(image, OneCall(lambda: decoded.append(1)), decoders)

        inference.give_up(image)
        may_decode.set()

    assert image.future.cancelled()
    assert decoded == []


def test_each_run_is_reported_once():
    async def run(inference):
        embedder = SlowEmbedder()
        tasks = [asyncio.create_task(inference.embed(embedder, pixels(0)))]
        await started(embedder)
        tasks += [asyncio.create_task(inference.embed(embedder, pixels(value))) for value in range(3)]
        await asyncio.sleep(0)
        embedder.go.set()
        await asyncio.gather(*tasks)
        await inference.time_run(embedder, pixels(0), 2)

    runs: list[RunFacts] = []
    with closing(InferenceThread(on_run=runs.append)) as inference:
        asyncio.run(run(inference))

    # A run that is only timed is not counted.
    assert runs == [RunFacts(1, 0.0), RunFacts(3, 0.0)]


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
