"""The audit log: who changed what in this installation, or was refused, when, from where, and how it ended."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from service.storage.database import Database, in_utc, now
from service.storage.tables.access import AuditEvent

SUCCEEDED = "succeeded"
DRY_RUN = "dry-run"  # it would have succeeded, and nothing was written

# What the columns take; more is cut off, for a row that is not written tells nothing.
_LENGTHS = {"actor": 200, "action": 200, "target": 500, "address": 200, "request_id": 64, "outcome": 100}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One event, to be written down. `actor` None: nobody whom we know; `status` None: not over HTTP."""

    actor: str | None
    action: str
    target: str
    address: str
    outcome: str
    key_id: str | None = None
    request_id: str | None = None
    status: int | None = None

    def fields(self) -> dict[str, object]:
        """Return it as fields of a log line."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which events are wanted: `action` is how it begins, `since` is included and `until` is not."""

    actor: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def record_event(database: Database, entry: AuditEntry, at: datetime | None = None) -> None:
    """Write an event down, in a transaction of its own; `at` defaults to now."""
    values = entry.fields()
    for name, length in _LENGTHS.items():
        if isinstance(text := values[name], str):
            values[name] = _storable(text)[:length]
    with database.transaction() as session:
        session.add(AuditEvent(at=at or now(), **values))


def list_events(
    session: Session, wanted: AuditFilter = AuditFilter(), *, limit: int = 100, before: int | None = None
) -> list[AuditEvent]:
    """Return events, the newest first; `before` is the id of one, for those that are older."""
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
    return list(session.scalars(query))


def prune_events(database: Database, retention_days: int) -> int:
    """Remove events that are older, and return how many those were; 0 days: none ever."""
    if retention_days == 0:
        return 0
    oldest = now() - timedelta(days=retention_days)
    with database.transaction() as session:
        done = session.execute(delete(AuditEvent).where(AuditEvent.at < oldest))
        return cast(CursorResult[Any], done).rowcount


def _storable(text: str) -> str:
    """Return a text without what some databases refuse: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
