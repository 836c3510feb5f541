"""Writing the audit log down beside the requests of a server: in order, in a thread of its own, never in their way."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import structlog

from service.access.audit import AuditEntry, prune_events, record_event
from service.errors import StorageFull, reason_of
from service.storage.database import Database, now
from service.storage.errors import DatabaseError

# Refusals can be had for nothing: past so many a minute they stand in the log only.
LIMITED_PER_MINUTE = 60
_MINUTE = 60.0
# A database that is busy or away holds up an answer no longer than this; the row is written when it can be.
_PATIENCE_SECONDS = 2.0

log = structlog.get_logger(__name__)


class AuditWriter:
    """Takes events, writes each as a log line, and as a row of the audit log."""

    def __init__(self, database: Database, retention_days: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._retention_days = retention_days
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._minute_began_at = clock()
        self._num_limited = 0

    async def write(self, entry: AuditEntry, *, is_limited: bool = False) -> None:
        """Write an event down; raises nothing. `is_limited`: only so many of these a minute become rows."""
        log.info("audit", **entry.fields())
        if is_limited and not self._has_place():
            return
        try:
            # The time is that of the event, however long its row waits.
            written = self._executor.submit(record_event, self._database, entry, now())
        except RuntimeError:
            log.error("audit_not_written", reason="the server has ended", **entry.fields())
            return
        written.add_done_callback(partial(_note_failure, entry))
        waiting = asyncio.wrap_future(written)
        # asyncio would complain of an error that it thinks nobody has seen.
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({waiting}, timeout=_PATIENCE_SECONDS)

    async def prune(self) -> None:
        """Remove what is older than it is kept."""
        try:
            num_events = await asyncio.to_thread(prune_events, self._database, self._retention_days)
        except (DatabaseError, StorageFull) as error:
            log.warning("audit_not_pruned", reason=reason_of(error))
            return
        if num_events:
            log.info("audit_pruned", events=num_events, days=self._retention_days)

    def close(self) -> None:
        """Write down what waits, and end."""
        self._executor.shutdown()

    def _has_place(self) -> bool:
        if self._clock() - self._minute_began_at >= _MINUTE:
            self._minute_began_at, self._num_limited = self._clock(), 0
        self._num_limited += 1
        if self._num_limited == LIMITED_PER_MINUTE + 1:
            log.warning("audit_rows_limited", per_minute=LIMITED_PER_MINUTE)
        return self._num_limited <= LIMITED_PER_MINUTE


def _note_failure(entry: AuditEntry, written: "Future[None]") -> None:
    # Whatever it was: the answer has been given or is on its way, and the log has the event all the same.
    error = written.exception()
    if isinstance(error, Exception):
        log.error("audit_not_written", reason=reason_of(error), **entry.fields())
