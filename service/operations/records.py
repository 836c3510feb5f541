"""Rows of operations: how they are created, found, locked and ended.

A request for work is one row, written in one transaction.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.operations.errors import IdempotencyKeyReused, OperationActive, OperationNotFound, QueueFull
from service.operations.kinds import SINGLE_KINDS, Kind
from service.storage.database import Database, now
from service.storage.tables.operations import ACTIVE_STATES, QUEUED, Operation

# Each import keeps its upload on the disk until it has ended.
_MAX_QUEUED = 100


def create_operation(
    database: Database,
    kind: Kind,
    request: Mapping[str, Any],
    *,
    actor: str,
    idempotency_key: str | None = None,
    operation_id: str | None = None,
    is_second_try: bool = False,
) -> tuple[Operation, bool]:
    """Queue an operation and return it with True; return an existing one with False if `idempotency_key` matches it.

    Raises IdempotencyKeyReused if the key was used with a different request, and OperationActive or QueueFull as
    `require_place` does.
    """
    digest = hashlib.sha256(json.dumps([kind, request], sort_keys=True, default=str).encode()).hexdigest()
    moment = now()
    operation = Operation(
        id=operation_id or new_operation_id(kind, moment),
        kind=kind,
        state=QUEUED,
        request=dict(request),
        request_sha256=digest,
        idempotency_key=idempotency_key,
        created_by=actor,
        created_at=moment,
        updated_at=moment,
        attempts=0,
        steps=[],
        result={},
    )
    try:
        with database.transaction() as session:
            earlier = _same_request(session, idempotency_key, digest)
            if earlier is not None:
                return earlier, False
            require_place_in(session, kind)
            session.add(operation)
    except (IntegrityError, OperationActive):
        # A concurrent request, perhaps the same one, was faster; its row is visible now.
        with database.reading() as session:
            earlier = _same_request(session, idempotency_key, digest)
            if earlier is not None:
                return earlier, False
            require_place_in(session, kind)
        if is_second_try:
            raise
        # That operation has ended in the meantime.
        return create_operation(
            database, kind, request, actor=actor, idempotency_key=idempotency_key, operation_id=operation_id,
            is_second_try=True,
        )  # fmt: skip
    return operation, True


def new_operation_id(kind: str, moment: datetime | None = None) -> str:
    """Return a new id: the kind, the time and a random part, so that ids of a kind sort by time."""
    return f"{kind}-{moment or now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def require_place(database: Database, kind: Kind) -> None:
    """Raise the error with which a new operation of this kind would be refused at present, if it would be.

    OperationActive while another one of a kind of which there is one at a time is queued or running; QueueFull while
    as many as may wait are.
    """
    with database.reading() as session:
        require_place_in(session, kind)


def get_operation(session: Session, operation_id: str) -> Operation:
    """Return an operation; raises OperationNotFound."""
    operation = session.get(Operation, operation_id)
    if operation is None:
        raise OperationNotFound(f"there is no operation {operation_id[:80]!r}; see: akin operations list")
    return operation


def select_operations(
    session: Session,
    *,
    kind: str | None = None,
    states: Collection[str] = (),
    limit: int = 50,
    before: str | None = None,
) -> list[Operation]:
    """Return operations, newest first; `before` is the id of the last one of the previous page."""
    query = select(Operation).order_by(Operation.created_at.desc(), Operation.id.desc()).limit(limit)
    if kind:
        query = query.where(Operation.kind == kind)
    if states:
        query = query.where(Operation.state.in_(states))
    if before:
        last = get_operation(session, before)
        query = query.where(
            (Operation.created_at < last.created_at)
            | ((Operation.created_at == last.created_at) & (Operation.id < last.id))
        )
    return list(session.scalars(query))


def count_operations(session: Session) -> dict[tuple[str, str], int]:
    """Return the number of operations by kind and state, without zeros."""
    query = select(Operation.kind, Operation.state, func.count()).group_by(Operation.kind, Operation.state)
    return {(kind, state): number for kind, state, number in session.execute(query)}


def require_place_in(session: Session, kind: Kind) -> None:
    """Do what `require_place` does in a session."""
    active = select(Operation).where(Operation.kind == kind, Operation.state.in_(ACTIVE_STATES))
    if kind not in SINGLE_KINDS:
        num_active = session.scalar(select(func.count()).select_from(active.subquery())) or 0
        if num_active >= _MAX_QUEUED:
            raise QueueFull(
                f"{num_active} operations of kind {kind} are queued or running, and no more are accepted; wait until "
                "one has ended, or put several uploads into one archive"
            )
        return
    found = session.scalar(active)
    if found is not None:
        remedy = f"wait for it, or cancel it: akin operations cancel {found.id}"
        raise OperationActive(f"{found.id} is {found.state}; {remedy}", found.id)


def lock_operation(session: Session, operation_id: str) -> Operation | None:
    """Return the current row, locked against other writers until the transaction ends; None if there is none."""
    # A decision about a state needs the latest one: SQLite admits one writer at a time, PostgreSQL locks the row.
    query = select(Operation).where(Operation.id == operation_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update())


def write_end(operation: Operation, state: str, error: Mapping[str, object] | None) -> None:
    """Write the state in which an operation ended, and why."""
    operation.state = state
    operation.finished_at = operation.updated_at = now()
    operation.progress = None
    # An unfinished step ends together with its operation.
    ended_at = operation.finished_at.isoformat(timespec="seconds")
    operation.steps = [{"finished_at": ended_at, **step} for step in operation.steps]
    operation.error = None if error is None else dict(error)


def _same_request(session: Session, idempotency_key: str | None, digest: str) -> Operation | None:
    if idempotency_key is None:
        return None
    earlier = session.scalar(select(Operation).where(Operation.idempotency_key == idempotency_key))
    if earlier is not None and earlier.request_sha256 != digest:
        raise IdempotencyKeyReused(
            f"the Idempotency-Key {idempotency_key[:80]!r} was used before with a different request ({earlier.id}); "
            "use a new key for a new request"
        )
    return earlier
