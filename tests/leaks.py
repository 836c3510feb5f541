"""Fail a test that leaves a thread, a child process, a logging handler or a socket behind.

What fixtures of a wider scope open does not count, nor do threads that such a fixture's own threads start later, for
instance those of the thread pool of an application that several tests share. A test that opens something on behalf of
such a fixture, for instance a replacement for a process that it killed, is marked `shares("child processes")`.
"""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest

# Threads and processes that were told to end may need time on a busy machine. Passing tests do not wait that long.
_PATIENCE_SECONDS = 20.0
# Garbage collection takes a tenth of a second, most threads end sooner.
_SECONDS_BEFORE_COLLECTION = 0.1
_DESCRIPTORS = Path("/proc/self/fd")
_TASKS = Path("/proc/self/task")
# Started at first use and shared by the whole process: fsspec's event loop and tqdm's monitor.
_SHARED_THREADS = frozenset({"fsspecIO", "tqdm_monitor"})
_SHARED_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

Resources = Mapping[str, Mapping[object, str]]  # kind -> resource -> its description in messages

_starters: "weakref.WeakKeyDictionary[threading.Thread, threading.Thread]" = weakref.WeakKeyDictionary()
_start_thread = threading.Thread.start
# What fixtures of wider scopes opened while a test was running.
_shared: dict[str, set[object]] = {}


def _start_and_remember(self: threading.Thread) -> None:
    _starters[self] = threading.current_thread()
    _start_thread(self)


threading.Thread.start = _start_and_remember  # type: ignore[method-assign]  # for all threads of the test run


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """Remember what a fixture of a wider scope opens when a test requests it by name."""
    if fixturedef.scope == "function":
        return (yield)
    before = _resources()
    result = yield
    for kind, found in _resources().items():
        _shared.setdefault(kind, set()).update(found.keys() - before[kind].keys())
    return result


@pytest.fixture(autouse=True)
def _no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    # The pool of a database that several tests share opens connections when a test needs them.
    names = set(request.fixturenames)
    on_postgresql = "postgresql" in names or (
        request.config.getoption("--database") == "postgresql" and "new_address" in names
    )
    ignored = {"sockets"} if on_postgresql else set()
    for marker in request.node.iter_markers("shares"):
        ignored.update(marker.args)
    check = leak_check(ignored=ignored)
    next(check)
    yield
    message = next(check)
    assert not message, f"{request.node.name} leaves {message}"


def leak_check(patience_seconds: float = _PATIENCE_SECONDS, *, ignored: Collection[str] = ()) -> Iterator[str]:
    """Yield "" at the start, and then what was opened in between and is still open, once it had time to close."""
    before = _resources()
    yield ""
    until = time.monotonic() + patience_seconds
    collect_at = time.monotonic() + _SECONDS_BEFORE_COLLECTION
    pause = 0.001
    while (message := _describe(before, _resources(), ignored)) and time.monotonic() < until:
        if time.monotonic() > collect_at:
            # A socket in a reference cycle is closed by the garbage collector.
            gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
    yield message


def _describe(before: Resources, after: Resources, ignored: Collection[str]) -> str:
    left = {
        kind: sorted(
            description
            for resource, description in found.items()
            if resource not in before[kind]
            and resource not in _shared.get(kind, ())
            and not _is_started_by(resource, before["threads"])
        )
        for kind, found in after.items()
        if kind not in ignored
    }
    return "; ".join(f"{kind} behind: {', '.join(descriptions)}" for kind, descriptions in left.items() if descriptions)


def _is_started_by(resource: object, threads: Mapping[object, str]) -> bool:
    """Return whether a thread of `threads`, other than the test's own, started this one or one of its ancestors."""
    thread = _starters.get(resource) if isinstance(resource, threading.Thread) else None
    while thread is not None and thread is not threading.current_thread():
        if thread in threads or thread in _shared.get("threads", ()):
            return True
        thread = _starters.get(thread)
    return False


def _resources() -> Resources:
    find: dict[str, Callable[[], dict[object, str]]] = {
        "threads": _threads,
        "child processes": _children,
        "logging handlers": _handlers,
        "sockets": _sockets,
    }
    return {kind: function() for kind, function in find.items()}


def _threads() -> dict[object, str]:
    return {
        thread: thread.name
        for thread in threading.enumerate()
        # Threads of native libraries, which Python cannot join, are `_DummyThread`s.
        if thread.name not in _SHARED_THREADS and not isinstance(thread, threading._DummyThread)
    }


def _children() -> dict[object, str]:
    """Return the processes that a thread of this one started and that nobody has waited for; Linux only."""
    found: set[int] = set()
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended
    commands = {pid: _command_of(pid) for pid in found}
    return {pid: command for pid, command in commands.items() if not any(name in command for name in _SHARED_PROCESSES)}


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or str(
            pid
        )
    except OSError:
        return str(pid)


def _handlers() -> dict[object, str]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return {
        (logger.name, handler): f"{handler!r} of {logger.name}"
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        # pytest replaces its own handlers in each phase of a test.
        if not type(handler).__module__.startswith("_pytest")
    }


def _sockets() -> dict[object, str]:
    """Return the open sockets of this process by their inode numbers; Linux only."""
    found: dict[object, str] = {}
    for descriptor in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found[target] = target
    return found
