"""The audit log as it goes over HTTP."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from service.access.audit import AuditFilter
from service.storage.database import in_utc
from service.storage.tables.access import AuditEvent
from service.web.schemas.moments import Moment

MAX_AUDIT_PAGE = 1000


_MAX_ID = 2**31 - 1  # as large as the column


class AuditQuery(BaseModel):
    """Which events are wanted."""

    # A misspelt name would list everything.
    model_config = ConfigDict(extra="forbid")

    actor: str | None = Field(None, description="Only of this key, by its name, or of a user of the command line.")
    action: str | None = Field(None, description="Only actions that begin so, such as POST /v1/admin/keys.")
    outcome: str | None = Field(None, description="Only with this outcome: succeeded, or the code of a problem.")
    since: Moment | None = Field(None, description="Only from this time on (ISO 8601; UTC where no zone is named).")
    until: Moment | None = Field(None, description="Only before this time.")
    limit: int = Field(100, ge=1, le=MAX_AUDIT_PAGE)
    before: int | None = Field(None, ge=1, le=_MAX_ID, description="`next` of the page before.")

    def filter(self) -> AuditFilter:
        """Return it as the table takes it."""
        return AuditFilter(self.actor, self.action, self.outcome, self.since, self.until)


class AuditEventView(BaseModel):
    """Something that changed this installation, or was refused."""

    id: int
    at: datetime
    actor: str | None = Field(description="A key, by its name, or a user of the command line; None: nobody known.")
    key_id: str | None
    action: str = Field(description="Method and route, or the command.")
    target: str = Field(description="The path as it was sent, and what was made or meant besides.")
    address: str = Field(description="Of the client, or the host of the command.")
    request_id: str | None
    status: int | None
    outcome: str = Field(description="succeeded, dry-run, or the code of the problem.")

    @classmethod
    def of(cls, row: AuditEvent) -> "AuditEventView":
        """Describe a row."""
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
    """Events, the newest first."""

    events: list[AuditEventView]
    next: int | None = Field(description="The `before` of the next page; None: there is no more.")

    @classmethod
    def of(cls, rows: list[AuditEvent], limit: int) -> "AuditPage":
        """Describe up to `limit` rows, and where more begin."""
        page = rows[:limit]
        return cls(events=[AuditEventView.of(row) for row in page], next=page[-1].id if len(rows) > limit else None)
