"""Loading in a thread that a stopping server can end."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from service.serving import loading
from service.serving.loading import Check, LoadStopped, is_loading, load_in_own_thread
from tests.service.conftest import wait_for


def name_thread(check: Check) -> str:
    check()
    return threading.current_thread().name


def test_returns_the_result_or_raises_the_error_of_the_thread():
    assert asyncio.run(load_in_own_thread(name_thread)) == "load-release"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(load_in_own_thread(lambda _: 1 // 0))
    wait_for(lambda: not is_loading())


async def start_and_cancel(load, has_started):
    task = asyncio.create_task(load_in_own_thread(load))
    while not has_started.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait({task})
    return task


def test_a_cancelled_load_ends_at_its_next_check():
    has_started, outcomes = threading.Event(), []

    def load(check):
        has_started.set()
        try:
            while True:
                check()
        except LoadStopped:
            outcomes.append("stopped")
            raise

    task = asyncio.run(start_and_cancel(load, has_started))

    assert task.cancelled()
    assert outcomes == ["stopped"]
    wait_for(lambda: not is_loading())


def test_a_load_that_hangs_is_abandoned(monkeypatch):
    monkeypatch.setattr(loading, "_STOP_SECONDS", 0.01)
    has_started, may_end = threading.Event(), threading.Event()

    def load(_):
        has_started.set()
        may_end.wait(20)

    with capture_logs() as logs:
        task = asyncio.run(start_and_cancel(load, has_started))

    assert task.cancelled()
    assert [line["event"] for line in logs] == ["release_load_abandoned"]
    assert is_loading()
    may_end.set()
    wait_for(lambda: not is_loading())
