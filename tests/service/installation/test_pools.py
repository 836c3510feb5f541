"""The thread pools of a server."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.installation.pools import ThreadPools, run_in


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
