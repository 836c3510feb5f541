"""The audit log: who changed what in this installation or was refused, when, from where, and with which outcome."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, String, delete, select

from service.storage.database import Database, in_utc, now
from service.storage.tables.access import AuditEvent

SUCCEEDED = "succeeded"
DRY_RUN = "dry-run"  # would have succeeded, and wrote nothing

# Longer values are cut: a row that is rejected for its length would record nothing.
_LENGTHS = {
    column.name: column.type.length for column in AuditEvent.__table__.columns if isinstance(column.type, String)
}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One event to record. `actor` is None if unknown; `status` is None unless the event came over HTTP."""

    actor: str | None
    action: str
    target: str
    address: str
    outcome: str
    key_id: str | None = None
    request_id: str | None = None
    status: int | None = None

    def fields(self) -> dict[str, object]:
        """Return the entry as fields of a log line."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events to list: `action` is a prefix, `since` is inclusive and `until` exclusive."""

    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def record_event(database: Database, entry: AuditEntry, at: datetime | None = None) -> None:
    """Store an event in a transaction of its own; `at` defaults to now."""
    values = entry.fields()
    for name, length in _LENGTHS.items():
        if isinstance(text := values[name], str):
            values[name] = _storable(text)[:length]
    with database.transaction() as session:
        session.add(AuditEvent(at=at or now(), **values))


def list_events(
    database: Database, wanted: AuditFilter = AuditFilter(), *, limit: int = 100, before: int | None = None
) -> list[AuditEvent]:
    """Return events, newest first; `before` limits them to those older than the event of that id."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if wanted.actor is not None:
        query = query.where(AuditEvent.actor == _storable(wanted.actor))
    if wanted.action is not None:
        query = query.where(AuditEvent.action.startswith(_storable(wanted.action), autoescape=True))
    if wanted.outcome is not None:
        query = query.where(AuditEvent.outcome == _storable(wanted.outcome))
    if wanted.since is not None:
        query = query.where(AuditEvent.at >= in_utc(wanted.since))
    if wanted.until is not None:
        query = query.where(AuditEvent.at < in_utc(wanted.until))
    if before is not None:
        query = query.where(AuditEvent.id < before)
    with database.reading() as session:
        return list(session.scalars(query))


def prune_events(database: Database, retention_days: int) -> int:
    """Delete events older than `retention_days` and return their number; 0 days keeps all."""
    if retention_days == 0:
        return 0
    oldest = now() - timedelta(days=retention_days)
    with database.transaction() as session:
        done = session.execute(delete(AuditEvent).where(AuditEvent.at < oldest))
        return cast(CursorResult[Any], done).rowcount


def _storable(text: str) -> str:
    """Return a text without what some databases reject: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
