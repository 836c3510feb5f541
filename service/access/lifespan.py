"""What a server does about keys and the audit log beside its requests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from service.access.audit_writer import AuditWriter
from service.access.key_ring import KeyRing
from service.installation.settings import Settings
from service.storage.database import Database

_USES_SECONDS = 60.0
_PRUNE_EVERY = 24 * 60  # of those

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def open_access(database: Database, settings: Settings) -> AsyncIterator[tuple[KeyRing, AuditWriter]]:
    """Give the keys and the audit log of a server; what they have not written yet is written at the end."""
    key_ring = KeyRing(database, settings)
    audit = AuditWriter(database, settings.audit_retention_days)
    # A database that goes away before the first request takes no key with it.
    await key_ring.refresh()
    upkeep = asyncio.create_task(_keep_up(key_ring, audit))
    try:
        yield key_ring, audit
    finally:
        upkeep.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await upkeep
        finally:
            try:
                await _try("uses_of_keys", key_ring.write_uses)
            finally:
                await asyncio.to_thread(audit.close)


async def _keep_up(key_ring: KeyRing, audit: AuditWriter) -> None:
    """Write down which keys were used, each minute; remove what the audit log keeps no more, at once and each day."""
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
    except Exception:  # logged, and tried again at its next time: a server goes on without it
        log.exception("upkeep_failed", task=task)
