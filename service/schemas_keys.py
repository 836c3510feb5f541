"""Keys and the audit log as they go over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.access.audit import AuditFilter
from service.access.keys import key_state, previous_good_until
from service.schemas import Problem
from service.storage.database import in_utc
from service.storage.tables.access import APIKey, AuditEvent

KEYS_PATH = "/v1/admin/keys"
DEFAULT_GRACE_SECONDS = 24 * 60 * 60
MAX_GRACE_SECONDS = 90 * 24 * 60 * 60
MAX_EXPIRY_DAYS = 100 * 366
MAX_AUDIT_PAGE = 1000
_MAX_ID = 2**31 - 1  # as large as the column

KEY_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No key, or one that is not known, has expired or was revoked."},
    403: {"model": Problem, "description": "The key has not the scope."},
}


def _utc(moment: datetime) -> datetime:
    try:
        return in_utc(moment)
    except OverflowError:
        raise ValueError("the time lies beyond the years 1 to 9999") from None


# ISO 8601; without a zone it is in UTC, whatever the clock of the server says.
Moment = Annotated[datetime, AfterValidator(_utc)]


class KeyRequest(BaseModel):
    """A key to be made."""

    # A misspelt time of expiry would make a key that never ends.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="1 to 64 letters, digits and . _ -, the first a letter or digit.")
    scopes: list[str] = Field(description="search, catalogue:write, admin; the last has the others in it.")
    expires_at: Moment | None = Field(None, description="When it ends, ISO 8601; UTC where no zone is named.")
    expires_in_days: int | None = Field(None, ge=1, le=MAX_EXPIRY_DAYS, description="Or in how many days.")


class RotateRequest(BaseModel):
    """A key that is to have a new secret."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: int = Field(
        DEFAULT_GRACE_SECONDS,
        ge=0,
        le=MAX_GRACE_SECONDS,
        description="How long the old one is good yet; 0: not at all.",
    )
    expires_at: Moment | None = Field(None, description="When the key ends; by default as it was.")


class KeyView(BaseModel):
    """A key, without itself: only its hash is kept, and that is nobody's business."""

    name: str
    id: str
    scopes: list[str]
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    created_by: str | None = Field(description="None: the first start made it.")
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Written once a minute.")
    old_secret_until: datetime | None = Field(description="Until when what a rotation replaced is good yet.")

    @classmethod
    def of(cls, row: APIKey) -> "KeyView":
        """Describe a row."""
        return cls(**_facts(row))


class NewKey(KeyView):
    """A key that was made or rotated, with itself, this once."""

    key: str = Field(description="Shown this once; send it as Authorization: Bearer, or X-API-Key.")

    @classmethod
    def with_key(cls, row: APIKey, key: str) -> "NewKey":
        """Describe a row, and show the key."""
        return cls(**_facts(row), key=key)


class KeyList(BaseModel):
    """All keys, the oldest first."""

    keys: list[KeyView]


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


def _facts(row: APIKey) -> dict[str, Any]:
    return {
        "name": row.name,
        "id": row.id,
        "scopes": list(row.scopes),
        "state": key_state(row),
        "created_at": in_utc(row.created_at),
        "created_by": row.created_by,
        "expires_at": in_utc(row.expires_at),
        "revoked_at": in_utc(row.revoked_at),
        "last_used_at": in_utc(row.last_used_at),
        "old_secret_until": previous_good_until(row),
    }
