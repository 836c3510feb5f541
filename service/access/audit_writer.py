"""Writing the audit log in a server: in order, in a thread of its own, without holding up requests."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial

import structlog

from service.access.audit import AuditEntry, prune_events, record_event
from service.errors import StorageFull, reason_of
from service.storage.database import Database, now
from service.storage.errors import DatabaseError

# Anybody can cause refusals: beyond this many a minute they are only logged.
LIMITED_PER_MINUTE = 60
_MINUTE = 60.0
# How long a response waits for its row; if the database is busy or away, the row is written later.
_PATIENCE_SECONDS = 2.0

log = structlog.get_logger(__name__)


class AuditWriter:
    """Writes each event as a log line and as a row of the audit log."""

    def __init__(
        self,
        database: Database,
        retention_days: int,
        *,
        upkeep: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prune in `upkeep`, or in the event loop's own executor."""
        self._upkeep = upkeep
        self._database = database
        self._retention_days = retention_days
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._minute_began_at = clock()
        self._num_limited = 0

    async def write(self, entry: AuditEntry, *, is_limited: bool = False) -> None:
        """Log and store an event; raises nothing. Of `is_limited` events, LIMITED_PER_MINUTE a minute are stored."""
        log.info("audit", **entry.fields())
        if is_limited and self._is_over_limit():
            return
        try:
            # The time of the event, however late its row is written.
            written = self._executor.submit(record_event, self._database, entry, now())
        except RuntimeError:
            log.error("audit_not_written", reason="the server is stopping", **entry.fields())
            return
        written.add_done_callback(partial(_note_failure, entry))
        waiting = asyncio.wrap_future(written)
        # asyncio would log an error that nothing has retrieved.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({waiting}, timeout=_PATIENCE_SECONDS)

    async def prune(self) -> None:
        """Delete events that are past their retention."""
        try:
            loop = asyncio.get_running_loop()
            num_events = await loop.run_in_executor(self._upkeep, prune_events, self._database, self._retention_days)
        except (DatabaseError, StorageFull) as error:
            log.warning("audit_not_pruned", reason=reason_of(error))
            return
        if num_events:
            log.info("audit_pruned", events=num_events, days=self._retention_days)

    def close(self) -> None:
        """Write the waiting rows, and end the thread."""
        self._executor.shutdown()

    def _is_over_limit(self) -> bool:
        if self._clock() - self._minute_began_at >= _MINUTE:
            self._minute_began_at, self._num_limited = self._clock(), 0
        self._num_limited += 1
        if self._num_limited == LIMITED_PER_MINUTE + 1:
            log.warning("audit_rows_limited", per_minute=LIMITED_PER_MINUTE)
        return self._num_limited > LIMITED_PER_MINUTE


def _note_failure(entry: AuditEntry, written: "Future[None]") -> None:
    # Any error: the response does not depend on the row, and the log has the event.
    error = written.exception()
    if isinstance(error, Exception):
        log.error("audit_not_written", reason=reason_of(error), **entry.fields())
