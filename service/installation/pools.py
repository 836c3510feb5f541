"""The threads of a server, by kind of work: no kind waits until another has a thread free.

Heartbeats, polls and reads of keys have a thread each, so that a server follows releases and revocations however many
uploads it receives. What requests do with files and tables runs in the event loop's default executor (`requests`).
Functions of routes that are not coroutines run in the framework's own threads.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar, TypeVarTuple

T = TypeVar("T")
A = TypeVarTuple("A")

_REQUEST_THREADS = 8
_IMAGE_THREADS = 4
_LOOKUP_THREADS = 2


class ThreadPools:
    """The thread pools of one server; threads start when they are needed, and end with the `with` block."""

    def __init__(self, *, decode_workers: int, search_workers: int) -> None:
        self.decoders = ThreadPoolExecutor(decode_workers, "decode")
        # Bodies of searches that take time to parse, such as JSON with an image.
        self.bodies = ThreadPoolExecutor(decode_workers, "body")
        self.searchers = ThreadPoolExecutor(search_workers, "search")
        # Large responses become JSON here.
        self.responses = ThreadPoolExecutor(1, "response")
        # Requests for stored images, and the question whether one may be shown.
        self.images = ThreadPoolExecutor(_IMAGE_THREADS, "image")
        self.lookups = ThreadPoolExecutor(_LOOKUP_THREADS, "lookup")
        self.polls = ThreadPoolExecutor(1, "poll")
        self.heartbeats = ThreadPoolExecutor(1, "heartbeat")
        self.keys = ThreadPoolExecutor(1, "keys")
        # Changes of keys: a revocation does not wait for uploads.
        self.changes = ThreadPoolExecutor(1, "change")
        self.upkeep = ThreadPoolExecutor(1, "upkeep")
        self.requests = ThreadPoolExecutor(_REQUEST_THREADS, "request")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pools = [pool for pool in vars(self).values() if isinstance(pool, ThreadPoolExecutor)]
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown()


async def run_in(pool: Executor, function: Callable[[*A], T], *arguments: *A) -> T:
    """Run a function in a pool; cancelling the caller removes it from the queue, unless it has started."""
    # The pool keeps a cancelled call until its turn. Clearing the arguments frees what they hold immediately.
    held = [arguments]
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*held.pop()))
    finally:
        held.clear()
