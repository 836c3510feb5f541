"""What the last poll for the active release found out about the database."""

import time

# A question that was asked so long ago and has no answer yet will get none.
_SILENT_SECONDS = 5.0


class DatabaseState:
    """What the last poll for the active release found out about the database."""

    def __init__(self) -> None:
        self._asked_at: float | None = None  # of a question without an answer
        self._reason: str | None = None

    def asking(self) -> None:
        """Note that the database is asked now."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    def answered(self) -> None:
        """Note that it has answered."""
        self._asked_at, self._reason = None, None

    def failed(self, reason: str) -> None:
        """Note that it has not; `reason` is shown to anybody, so it names no host and no user."""
        self._asked_at, self._reason = None, reason

    def problem(self) -> str | None:
        """Say what is wrong with the database; None where nothing is."""
        if self._asked_at is not None and time.monotonic() - self._asked_at > _SILENT_SECONDS:
            return f"the database has not answered for {time.monotonic() - self._asked_at:.0f} s"
        return self._reason
