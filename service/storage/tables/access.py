"""API keys and the audit log."""

from datetime import datetime

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp


class APIKey(Table):
    """A key to this installation; only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    created_by: Mapped[str | None] = mapped_column(String(200))  # None: the first start made it
    expires_at: Mapped[datetime | None] = mapped_column(Timestamp)
    revoked_at: Mapped[datetime | None] = mapped_column(Timestamp)
    last_used_at: Mapped[datetime | None] = mapped_column(Timestamp)  # within a minute or so
    # What a rotation replaced goes on for a while, so that its users can change over one by one.
    previous_sha256: Mapped[str | None] = mapped_column(String(64))
    previous_expires_at: Mapped[datetime | None] = mapped_column(Timestamp)


class AuditEvent(Table):
    """Something that changed this installation, or was refused: who, what, when, from where, and how it ended."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(Timestamp, index=True)
    actor: Mapped[str | None] = mapped_column(String(200), index=True)  # None: nobody whom we know
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(200))  # "POST /v1/admin/keys/{name}:revoke", "akin keys revoke"
    target: Mapped[str] = mapped_column(String(500))  # the path as it was sent, or the command's argument
    address: Mapped[str] = mapped_column(String(200))  # of the client, or the host of a terminal
    request_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None]  # of the answer; None: a command
    outcome: Mapped[str] = mapped_column(String(100))  # "succeeded", or the code of the problem
