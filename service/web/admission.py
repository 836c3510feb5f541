"""Limit the concurrent searches of a process, and cancel the search of a client that disconnects.

A search holds a slot from the end of its body on, so that clients that send slowly hold none. Requests do not queue.
Beyond the limit they are refused at once, so that a gateway can try another replica and a client can retry. The latency
of accepted searches therefore stays bounded under overload. Bodies that are still arriving have a limit of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from fastapi import Request

from service.web.errors import ClientLeft, Overloaded

T = TypeVar("T")

_DEFAULT_BODY_BYTES = 16 * 2**20
# Bodies that may arrive at a time, for each slot.
_ARRIVING_PER_SLOT = 16


class Admission:
    """A limited number of slots for searches; not thread-safe: for the tasks of one event loop."""

    def __init__(self, max_searches: int, *, max_body_bytes: int = _DEFAULT_BODY_BYTES) -> None:
        self.limit = max_searches
        self.num_in_progress = 0
        self.num_refused = 0
        self.arrivals = Arrivals(max_bytes=max_searches * max_body_bytes, max_bodies=max_searches * _ARRIVING_PER_SLOT)

    def require_slot(self) -> None:
        """Raise Overloaded if no slot is free: a search that would be refused need not send its body."""
        if self.num_in_progress >= self.limit:
            self.num_refused += 1
            raise Overloaded(f"{self.limit} searches are in progress, the limit of this process; try again in a moment")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a slot until the block ends; raises Overloaded at once if none is free."""
        self.require_slot()
        self.num_in_progress += 1
        try:
            yield
        finally:
            self.num_in_progress -= 1


class Arrivals:
    """Limits the number and the bytes of the bodies that are arriving; for the tasks of one event loop.

    Beyond a limit, the body that began first is given up: however many clients send slowly, a body that arrives quickly
    finds room.
    """

    def __init__(self, *, max_bytes: int, max_bodies: int) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._max_bodies = max_bodies
        self._arriving: dict[_Arrival, None] = {}  # in the order of their beginnings

    @property
    def num_bodies(self) -> int:
        """How many bodies are arriving."""
        return len(self._arriving)

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[Callable[[int], None]]:
        """Receive a body in the block, which calls the yielded function with the size of each chunk.

        Raises Overloaded if the body is given up.
        """
        arrival = _Arrival()
        self._arriving[arrival] = None
        try:
            async with arrival.limit:
                self._make_room()
                yield lambda num_bytes: self._add(arrival, num_bytes)
        except TimeoutError:
            if not arrival.is_given_up:
                raise
            raise Overloaded("too many bodies of searches are arriving, and this one began first; try again") from None
        finally:
            self._remove(arrival)

    def _add(self, arrival: "_Arrival", num_bytes: int) -> None:
        if arrival.is_given_up:
            return
        arrival.num_bytes += num_bytes
        self.num_bytes += num_bytes
        self._make_room()

    def _make_room(self) -> None:
        while self.num_bytes > self._max_bytes or len(self._arriving) > self._max_bodies:
            first = next(iter(self._arriving))
            self._remove(first)
            first.give_up()

    def _remove(self, arrival: "_Arrival") -> None:
        if arrival in self._arriving:
            del self._arriving[arrival]
            self.num_bytes -= arrival.num_bytes


class _Arrival:
    """A body that is arriving."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.is_given_up = False
        self.limit = asyncio.timeout(None)

    def give_up(self) -> None:
        """End the block that receives the body."""
        self.is_given_up = True
        self.limit.reschedule(asyncio.get_running_loop().time())


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it and raise ClientLeft if the client disconnects first.

    Call this after the body has been read: the only message after the body is the disconnect.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft("the client disconnected before the response")
    finally:
        for task in (working, leaving):
            task.cancel()
        # Wait for both, so that neither runs on after the response and no exception is left unretrieved.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
