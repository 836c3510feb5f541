"""Free releases in a thread of their own: unmapping the files of one that is no longer served takes a while."""

import threading
from queue import SimpleQueue

from service.releases.files import LoadedRelease


class ReleaseCloser:
    """A thread that frees what it is handed, until closed."""

    def __init__(self) -> None:
        # `put` may be called by the garbage collector at any point of any thread. A SimpleQueue is reentrant; a thread
        # pool is not: its `submit` takes a lock that the interrupted thread may hold.
        self._queue: SimpleQueue[list[LoadedRelease] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="close-release", daemon=True)
        self._thread.start()

    def free(self, held: list[LoadedRelease]) -> None:
        """Empty a list that has the last reference to a release; returns at once, and may be called by finalizers."""
        self._queue.put(held)

    def close(self) -> None:
        """Free what waits, and end the thread. What is handed over later is freed with this object."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (held := self._queue.get()) is not None:
            held.clear()
