"""The audit log over HTTP."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from service.access.audit import AuditFilter
from service.storage.database import in_utc
from service.storage.tables.access import AuditEvent
from service.web.schemas.moments import Moment

MAX_AUDIT_PAGE = 1000
_MAX_ID = 2**31 - 1  # the largest that the column holds


class AuditQuery(BaseModel):
    """Which events to list."""

    # A misspelt parameter would list everything.
    model_config = ConfigDict(extra="forbid")

    actor: str | None = Field(
        None, description="Only events of this actor: the name of a key, or `command line, USER`."
    )
    action: str | None = Field(None, description="Only actions with this prefix, such as POST /v1/admin/keys.")
    outcome: str | None = Field(
        None, description="Only events with this outcome: succeeded, dry-run, or the code of a problem."
    )
    since: Moment | None = Field(
        None, description="Only events at or after this time (ISO 8601; UTC if it has no zone)."
    )
    until: Moment | None = Field(None, description="Only events before this time.")
    limit: int = Field(100, ge=1, le=MAX_AUDIT_PAGE)
    before: int | None = Field(None, ge=1, le=_MAX_ID, description="`next` of the previous page.")

    def filter(self) -> AuditFilter:
        """Return the filter that the query describes."""
        return AuditFilter(self.actor, self.action, self.outcome, self.since, self.until)


class AuditEventView(BaseModel):
    """An event that changed this installation, or a refused request."""

    id: int
    at: datetime
    actor: str | None = Field(description="The name of a key, or a user of the command line; null if unknown.")
    key_id: str | None
    action: str = Field(description="Method and route, or the command.")
    target: str = Field(description="The path as it was sent, and what was created or concerned besides.")
    address: str = Field(description="Address of the client, or host of the command.")
    request_id: str | None
    status: int | None
    outcome: str = Field(description="succeeded, dry-run, or the code of the problem.")

    @classmethod
    def of(cls, row: AuditEvent) -> "AuditEventView":
        """Return the view of a row."""
        return cls(
            id=row.id,
            at=in_utc(row.at),
            actor=row.actor,
            key_id=row.key_id,
            action=row.action,
            target=row.target,
            address=row.address,
            request_id=row.request_id,
            status=row.status,
            outcome=row.outcome,
        )


class AuditPage(BaseModel):
    """Events, newest first."""

    events: list[AuditEventView]
    next: int | None = Field(description="`before` of the next page; null on the last page.")

    @classmethod
    def of(cls, rows: list[AuditEvent], limit: int) -> "AuditPage":
        """Return the page of the first `limit` rows; more rows than that mean that there is a next page."""
        page = rows[:limit]
        return cls(events=[AuditEventView.of(row) for row in page], next=page[-1].id if len(rows) > limit else None)
