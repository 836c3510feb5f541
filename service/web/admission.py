"""How many searches a process takes at a time, and what becomes of one whose client goes away.

There is no queue of requests: past the bound the answer is a quick refusal, which a gateway gives to another replica
and a client tries again. So the time that a search takes stays what it is when the process is busy but not too busy.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request

from service.web.errors import ClientLeft, Overloaded

T = TypeVar("T")


class Admission:
    """A bounded number of places for searches. Belongs to one event loop, whose tasks take turns."""

    def __init__(self, max_searches: int) -> None:
        self.limit = max_searches
        self.num_in_progress = 0
        self.num_refused = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for as long as the block runs; raises Overloaded at once where none is free."""
        if self.num_in_progress >= self.limit:
            self.num_refused += 1
            raise Overloaded(
                f"{self.limit} searches are in progress, as many as this process takes; try again in a moment"
            )
        self.num_in_progress += 1
        try:
            yield
        finally:
            self.num_in_progress -= 1


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` does; where the client goes away first, cancel it and raise ClientLeft.

    To be called when the body has been read: what is received after it can only be the client's leaving.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft("the client went away before it had its answer")
    finally:
        for task in (working, leaving):
            task.cancel()
        # Until both have ended: nothing of them goes on behind the answer, and no error of theirs stays unread.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
