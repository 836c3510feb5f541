"""Limit the concurrent searches of a process, and cancel the search of a client that disconnects.

Requests do not queue. Beyond the limit they are refused at once, so that a gateway can try another replica and a client
can retry. The latency of accepted searches therefore stays bounded under overload.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request

from service.web.errors import ClientLeft, Overloaded

T = TypeVar("T")


class Admission:
    """A limited number of slots for searches; not thread-safe: for the tasks of one event loop."""

    def __init__(self, max_searches: int) -> None:
        self.limit = max_searches
        self.num_in_progress = 0
        self.num_refused = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a slot until the block ends; raises Overloaded at once if none is free."""
        if self.num_in_progress >= self.limit:
            self.num_refused += 1
            raise Overloaded(f"{self.limit} searches are in progress, the limit of this process; try again in a moment")
        self.num_in_progress += 1
        try:
            yield
        finally:
            self.num_in_progress -= 1


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
