"""Operations and the processes that perform them."""

from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, REJECTED, FAILED, CANCELLED = "succeeded", "rejected", "failed", "cancelled"
ACTIVE_STATES = (QUEUED, RUNNING)

OperationState = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]
RowErrorKind = Literal["failed", "left-out"]
OPERATION_STATES: tuple[OperationState, ...] = get_args(OperationState)
_ONE_ACTIVE = text("state IN ('queued', 'running') AND kind IN ('retrain', 'build')")


class Operation(Table):
    """Work that outlasts a request: what was requested, its progress, and its result."""

    __tablename__ = "operations"
    __table_args__ = (
        # At most one operation of these kinds is active; the index enforces this for concurrent requests too.
        Index(
            "operations_one_active",
            "kind",
            unique=True,
            sqlite_where=_ONE_ACTIVE,
            postgresql_where=_ONE_ACTIVE,
        ),
        CheckConstraint(f"state IN {OPERATION_STATES}", name="operations_state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    step: Mapped[str | None] = mapped_column(String(40))
    request: Mapped[dict[str, object]] = mapped_column(JSON)
    request_sha256: Mapped[str] = mapped_column(String(64))
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(Timestamp, index=True)
    started_at: Mapped[datetime | None] = mapped_column(Timestamp)
    updated_at: Mapped[datetime] = mapped_column(Timestamp)
    finished_at: Mapped[datetime | None] = mapped_column(Timestamp)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(Timestamp)
    worker_id: Mapped[str | None] = mapped_column(String(40))  # the process that may write to this row
    attempts: Mapped[int]  # how often a worker has started or resumed it
    progress: Mapped[dict[str, object] | None] = mapped_column(JSON)
    steps: Mapped[list[dict[str, object]]] = mapped_column(JSON)  # the started steps: name, times, results
    result: Mapped[dict[str, object]] = mapped_column(JSON)  # results so far, by name
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)


class OperationRowError(Table):
    """A row of an import that could not be used, or a file that was left out."""

    __tablename__ = "operation_errors"

    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # in the order of the upload, from 1
    kind: Mapped[RowErrorKind] = mapped_column(String(20))
    location: Mapped[str] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
