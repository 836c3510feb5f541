"""API keys and the audit log."""

from datetime import datetime

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp


class APIKey(Table):
    """A key of this installation; only its hash is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    created_by: Mapped[str | None] = mapped_column(String(200))  # None: the first start created the key
    expires_at: Mapped[datetime | None] = mapped_column(Timestamp)
    revoked_at: Mapped[datetime | None] = mapped_column(Timestamp)
    last_used_at: Mapped[datetime | None] = mapped_column(Timestamp)  # to within about a minute
    # The secret that a rotation replaced stays valid for a while, so that users can switch one by one.
    previous_sha256: Mapped[str | None] = mapped_column(String(64))
    previous_expires_at: Mapped[datetime | None] = mapped_column(Timestamp)


class AuditEvent(Table):
    """A change of this installation or a refused request: who, what, when, from where, and the outcome."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Timestamp, index=True)
    actor: Mapped[str | None] = mapped_column(String(200), index=True)  # None: unknown
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(200))  # "POST /v1/admin/keys/{name}:revoke", "akin keys revoke"
    target: Mapped[str] = mapped_column(String(500))  # the path as it was sent, or the command's argument
    address: Mapped[str] = mapped_column(String(200))  # of the client, or the host of a command
    request_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None]  # of the response; None: a command
    outcome: Mapped[str] = mapped_column(String(100))  # "succeeded", or the code of the problem
