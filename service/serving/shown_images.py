"""Which stored images a server sends to anybody who knows their address."""

import time
from collections.abc import Callable
from concurrent.futures import Executor

from service.catalogue.shown_images import is_catalogue_image
from service.installation.pools import run_in
from service.serving.engine import LiveEngine
from service.storage.database import Database
from service.storage.media import MediaName

# How long an answer of the database counts, and how many are kept.
_KEPT_SECONDS = 5.0
_MAX_KEPT = 10_000


class ShownImages:
    """Answers from the live and the previous release, and asks the database about all other images.

    A result may come from a server that already serves the next release, or still serves an earlier one, so the release
    alone does not decide. Not thread-safe: for the tasks of one event loop.
    """

    def __init__(
        self, live: LiveEngine, database: Database, lookups: Executor, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._live = live
        self._database = database
        self._lookups = lookups
        self._clock = clock
        self._answers: dict[MediaName, tuple[bool, float]] = {}  # oldest first: answer and time

    async def shows(self, name: MediaName) -> bool:
        """Return whether the image is one of the catalogue; raises DatabaseError if only the database knows."""
        if self._live.shows(name):
            return True
        answer, answered_at = self._answers.get(name, (False, None))
        if answered_at is not None and self._clock() - answered_at < _KEPT_SECONDS:
            return answer
        answer = await run_in(self._lookups, is_catalogue_image, self._database, name)
        self._answers.pop(name, None)
        if len(self._answers) >= _MAX_KEPT:
            del self._answers[next(iter(self._answers))]
        self._answers[name] = (answer, self._clock())
        return answer
