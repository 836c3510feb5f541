"""Load a release in a thread of its own, which ends early if the server stops."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog

T = TypeVar("T")
Check = Callable[[], None]

THREAD_NAME = "load-release"
# Longer than the time between two checks, unless the disk hangs.
_STOP_SECONDS = 5.0

log = structlog.get_logger(__name__)


class LoadStopped(Exception):
    """The server stops, so the release is no longer needed."""


async def load_in_own_thread(load: Callable[[Check], T]) -> T:
    """Run `load` in a thread that ends with it: loading runs the network, see `service.serving.inference`.

    If the caller is cancelled, the function that `load` receives raises LoadStopped, and the thread has a few seconds
    to end. It is a daemon, so a disk that hangs does not keep the process alive.
    """
    stop = threading.Event()
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # an abandoned thread may still set its result

    def check() -> None:
        if stop.is_set():
            raise LoadStopped

    def run() -> None:
        try:
            result = load(check)
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    thread = threading.Thread(target=run, name=THREAD_NAME, daemon=True)
    thread.start()
    loaded = asyncio.wrap_future(outcome)
    try:
        return await asyncio.shield(loaded)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({loaded}, timeout=_STOP_SECONDS)
        if not loaded.done():
            log.warning("release_load_abandoned", seconds=_STOP_SECONDS)
            loaded.cancel()
        elif not loaded.cancelled():
            loaded.exception()  # retrieved: asyncio would log it otherwise
        raise


def is_loading() -> bool:
    """Return whether a thread of this process still loads a release."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())
