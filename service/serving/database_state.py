"""Whether the database answers, as seen by the last poll for the active release."""

import time

# A query without an answer for this long is reported as a problem.
_SILENT_SECONDS = 5.0


class DatabaseState:
    """Whether the database answers, as seen by the last poll for the active release."""

    def __init__(self) -> None:
        self._pending_since: float | None = None  # when the query without an answer was sent
        self._reason: str | None = None

    def query_started(self) -> None:
        """Note that a query was sent."""
        if self._pending_since is None:
            self._pending_since = time.monotonic()

    def query_succeeded(self) -> None:
        """Note that the database has answered."""
        self._pending_since, self._reason = None, None

    def query_failed(self, reason: str) -> None:
        """Note that the query failed; `reason` is public, so it must not name a host or a user."""
        self._pending_since, self._reason = None, reason

    def problem(self) -> str | None:
        """Return what is wrong with the database, or None."""
        if self._pending_since is not None:
            seconds = time.monotonic() - self._pending_since
            if seconds > _SILENT_SECONDS:
                return f"the database has not answered for {seconds:.0f} s"
        return self._reason
