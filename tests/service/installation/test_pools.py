"""The thread pools of a server."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest

from service.installation.pools import OneCall, ThreadPools, run_after, run_in


def test_cancelled_work_does_not_keep_its_image():
    """The pool keeps cancelled work in its queue until a thread takes it."""

    async def cancel_in_queue(pool):
        image = np.zeros(10)
        seen = weakref.ref(image)
        task = asyncio.create_task(run_in(pool, len, image))
        del image
        await asyncio.sleep(0)
        assert seen() is not None
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        gc.collect()
        return seen() is None

    hanging = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hanging.wait, 20)
        try:
            assert asyncio.run(cancel_in_queue(pool))
        finally:
            hanging.set()


def test_a_call_that_was_given_up_frees_what_it_holds_and_is_not_made():
    image = np.zeros(10)
    seen = weakref.ref(image)
    call = OneCall(image.sum)
    del image

    call.give_up()

    assert seen() is None
    with pytest.raises(CancelledError):
        call()


def test_a_call_follows_a_future_in_a_thread_of_the_pool():
    first: Future[int] = Future()
    with ThreadPoolExecutor(1, "searcher") as pool:
        second = run_after(first, pool, OneCall(lambda number: (number + 1, threading.current_thread().name)))
        assert not second.done()

        first.set_result(1)

        number, thread = second.result(20)
    assert number == 2
    assert thread.startswith("searcher")


def test_what_happens_to_a_future_happens_to_the_one_after_it():
    calls: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        failed: Future[int] = Future()
        after_failure = run_after(failed, pool, OneCall(calls.append))
        failed.set_exception(ZeroDivisionError("no image"))
        cancelled: Future[int] = Future()
        after_cancellation = run_after(cancelled, pool, OneCall(calls.append))
        cancelled.cancel()
        done: Future[int] = Future()
        after_nobody_wants_it = run_after(done, pool, OneCall(calls.append))
        after_nobody_wants_it.cancel()
        done.set_result(1)

    assert isinstance(after_failure.exception(), ZeroDivisionError)
    assert after_cancellation.cancelled()
    assert calls == []


def test_after_the_pool_has_been_shut_down_the_future_fails():
    first: Future[int] = Future()
    with ThreadPoolExecutor(1) as pool:
        second = run_after(first, pool, OneCall(str))

    first.set_result(1)

    with pytest.raises(RuntimeError, match="shutdown"):
        second.result()


def test_there_are_as_many_decoders_as_set_or_as_there_are_cores(monkeypatch):
    def num_decoders(decode_workers, num_cores):
        monkeypatch.setattr("service.installation.pools.available_cores", lambda: num_cores)
        with ThreadPools(decode_workers=decode_workers, search_workers=1) as pools:
            return pools.num_decoders

    assert [num_decoders(3, 8), num_decoders(0, 8), num_decoders(0, 96)] == [3, 8, 16]


def test_each_kind_of_work_has_threads_of_its_own():
    with ThreadPools(decode_workers=2, search_workers=3) as pools:
        kinds = {name: pool for name, pool in vars(pools).items() if isinstance(pool, ThreadPoolExecutor)}
        names = {name: pool.submit(lambda: threading.current_thread().name).result() for name, pool in kinds.items()}

    assert len(set(names.values())) == len(names)
    assert {"polls", "heartbeats", "keys", "upkeep", "images", "requests"} <= names.keys()


def test_at_the_end_waiting_work_is_cancelled_and_running_work_awaited():
    is_over, done = threading.Event(), []
    with ThreadPools(decode_workers=1, search_workers=1) as pools:

        def beat():
            is_over.wait(20)
            done.append("heartbeat")

        running = pools.heartbeats.submit(beat)
        waiting = pools.heartbeats.submit(done.append, "later")
        threading.Timer(0.01, is_over.set).start()

    assert running.done()
    assert waiting.cancelled()
    assert done == ["heartbeat"]
    with pytest.raises(RuntimeError):
        pools.keys.submit(done.append, "too late")
