"""Compute ahead in threads while the results are used in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], num_ahead: int
) -> Generator[R, None, None]:
    """Yield `function(item)` for each item, in order, with at most `num_ahead` results that are not used yet.

    The first exception is raised; what has not begun by then is cancelled, also when the generator is closed early.
    """
    remaining = iter(items)
    futures: deque[Future[R]] = deque()
    try:
        while True:
            futures.extend(pool.submit(function, item) for item in islice(remaining, max(1, num_ahead) - len(futures)))
            if not futures:
                return
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()
