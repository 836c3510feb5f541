"""Background work on keys and the audit log for as long as a server runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from service.access.audit_writer import AuditWriter
from service.access.key_ring import KeyRing
from service.installation.pools import ThreadPools, run_in
from service.installation.settings import Settings
from service.storage.database import Database

_USES_SECONDS = 60.0
_PRUNE_EVERY = 24 * 60  # rounds of _USES_SECONDS: a day

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def open_access(
    database: Database, settings: Settings, pools: ThreadPools
) -> AsyncIterator[tuple[KeyRing, AuditWriter]]:
    """Yield the keys and the audit log of a server; what they have not written yet is written at the end."""
    # A thread for it alone: a revocation counts within seconds even while imports occupy the threads of requests.
    key_ring = KeyRing(database, settings, executor=pools.keys)
    audit = AuditWriter(database, settings.audit_retention_days, upkeep=pools.upkeep)
    # Before the first request, so that keys are known even if the database goes away then.
    await key_ring.read()
    tasks = [asyncio.create_task(_follow_keys(key_ring)), asyncio.create_task(_maintain(key_ring, audit))]
    try:
        yield key_ring, audit
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        try:
            await _try("uses_of_keys", key_ring.write_uses)
        finally:
            await run_in(pools.upkeep, audit.close)


async def _follow_keys(key_ring: KeyRing) -> None:
    while True:
        await key_ring.wait_until_due()
        await _try("keys", key_ring.read)


async def _maintain(key_ring: KeyRing, audit: AuditWriter) -> None:
    """Store the uses of keys every minute, and prune the audit log at once and then daily."""
    rounds = 0
    while True:
        if rounds % _PRUNE_EVERY == 0:
            await _try("audit", audit.prune)
        rounds += 1
        await asyncio.sleep(_USES_SECONDS)
        await _try("uses_of_keys", key_ring.write_uses)


async def _try(task: str, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Exception:  # logged, and tried again when next due: requests do not depend on it
        log.exception("access_task_failed", task=task)
