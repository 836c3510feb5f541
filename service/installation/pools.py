"""The threads of a server, by kind of work: no kind waits until another has a thread free.

Heartbeats, polls and reads of keys have a thread each, so that a server follows releases and revocations however many
uploads it receives. What requests do with files and tables runs in the event loop's default executor (`requests`).
Functions of routes that are not coroutines run in the framework's own threads.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar, TypeVarTuple

from embedding.cores import available_cores

T = TypeVar("T")
F = TypeVar("F")
P = ParamSpec("P")
A = TypeVarTuple("A")

# Each decoder may hold a large image; more do not decode faster than networks embed.
_MOST_DECODERS = 16
_REQUEST_THREADS = 8
_IMAGE_THREADS = 4
_LOOKUP_THREADS = 2


class ThreadPools:
    """The thread pools of one server; threads start when they are needed, and end with the `with` block.

    With 0 `decode_workers`, there is one per core: decoding then keeps all cores busy while the
    network waits for images, and the scheduler divides the cores while both have work (benchmarks/core_split.py).
    """

    def __init__(self, *, decode_workers: int, search_workers: int) -> None:
        self.num_decoders = decode_workers or min(_MOST_DECODERS, available_cores())
        self.decoders = ThreadPoolExecutor(self.num_decoders, "decode")
        # Bodies of searches that take time to parse, such as JSON with an image.
        self.bodies = ThreadPoolExecutor(self.num_decoders, "body")
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


class OneCall(Generic[P, T]):
    """A function that is called once, or given up.

    Pools keep a cancelled call until its turn. Giving it up frees what the function holds immediately.
    """

    def __init__(self, function: Callable[P, T]) -> None:
        self._held = [function]

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> T:
        """Call the function; raises CancelledError if it has been given up."""
        try:
            function = self._held.pop()
        except IndexError:
            raise CancelledError from None
        return function(*arguments, **options)

    def give_up(self) -> None:
        """Free the function, unless it has been called."""
        self._held.clear()


async def run_in(pool: Executor, function: Callable[[*A], T], *arguments: *A) -> T:
    """Run a function in a pool; cancelling the caller removes it from the queue, unless it has started."""
    call = OneCall(lambda: function(*arguments))
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, call)
    finally:
        call.give_up()


def run_after(first: Future[F], pool: Executor, call: OneCall[[F], T]) -> Future[T]:
    """Call in a pool with the result of `first`; its error or cancellation becomes that of the returned future.

    The thread that completes `first` hands the call over, so that it does not wait for the event loop.
    """
    second: Future[T] = Future()
    # Emptied, since futures keep their callbacks, and tracebacks the arguments of calls.
    waiting = [second]

    def submit(done: Future[F]) -> None:
        if done.cancelled():
            waiting.pop().cancel()
        elif (error := done.exception()) is not None:
            _set_exception(waiting.pop(), error)
        else:
            try:
                pool.submit(_complete, waiting, call, done.result())
            except RuntimeError as shut_down:
                _set_exception(waiting.pop(), shut_down)

    first.add_done_callback(submit)
    return second


def _complete(waiting: list[Future[T]], call: OneCall[[F], T], argument: F) -> None:
    future = waiting.pop()
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call(argument))
    except BaseException as error:  # noqa: BLE001  # passed to the caller
        future.set_exception(error)
        # The traceback refers to this frame, and the future to the traceback.
        del future


def _set_exception(future: Future[T], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled in the meantime
        future.set_exception(error)
