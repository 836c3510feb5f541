"""Fail a test that leaves a thread, a child process, a logging handler or a socket behind.

What a fixture of a wider scope opened exists before the test starts, and does not count.
"""

import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# What is asked to end may need a moment on a busy machine; a test that leaves nothing behind never waits.
_PATIENCE_SECONDS = 3.0
_DESCRIPTORS = Path("/proc/self/fd")
_TASKS = Path("/proc/self/task")


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    threads, children, handlers, sockets = _threads(), _children(), _handlers(), _sockets()
    yield
    left = {
        "threads": lambda: {thread.name for thread in _threads() - threads},
        "child processes": lambda: {_command_of(pid) for pid in _children() - children},
        "logging handlers": lambda: {f"{handler!r} of {name or 'root'}" for name, handler in _handlers() - handlers},
        "sockets": lambda: _sockets() - sockets,
    }
    for what, look in left.items():
        found = _settled(look)
        assert not found, f"{request.node.name} leaves {what} behind: {', '.join(sorted(found))}"


def _settled(look) -> set[str]:
    """Return what is left once it has had time to go."""
    until = time.monotonic() + _PATIENCE_SECONDS
    pause = 0.001
    while found := look():
        # A socket in a reference cycle is closed by the collector, which a test need not call.
        gc.collect()
        if time.monotonic() > until:
            return found
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    return set()


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _children() -> set[int]:
    """Return the processes that any thread of this one started and that have not been waited for; Linux only."""
    found: set[int] = set()
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended
    return found


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or str(
            pid
        )
    except OSError:
        return str(pid)


def _handlers() -> set[tuple[str, logging.Handler]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return {
        (logger.name, handler)
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        # pytest's own come and go between the phases of a test.
        if not type(handler).__module__.startswith("_pytest")
    }


def _sockets() -> set[str]:
    """Return the open sockets of this process by their numbers in the kernel; Linux only."""
    found: set[str] = set()
    for descriptor in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue  # that of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found
