"""Rows of operations: how they are created, claimed by a worker, written to and ended.

A request for work is one row, written in one transaction. Once a worker has claimed the row, every write checks that
the row still names that worker, so a worker that was declared dead and returns cannot change anything.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.operations.errors import IdempotencyKeyReused, OperationActive, OperationEnded, OperationNotFound
from service.operations.kinds import Kind
from service.storage.database import Database, now
from service.storage.tables.operations import ACTIVE_STATES, CANCELLED, QUEUED, RUNNING, Operation, Process


class OperationLost(BaseException):
    """The operation now belongs to another worker.

    Not an Exception, so that no step handles it as a failure of its own.
    """


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

    Raises IdempotencyKeyReused if the key was used with a different request, and OperationActive while another
    operation of this kind is queued or running.
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
            _require_idle(session, kind)
            session.add(operation)
    except (IntegrityError, OperationActive):
        # A concurrent request, perhaps the same one, was faster; its row is visible now.
        with database.reading() as session:
            earlier = _same_request(session, idempotency_key, digest)
            if earlier is not None:
                return earlier, False
            _require_idle(session, kind)
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


def require_idle(database: Database, kind: Kind) -> None:
    """Raise OperationActive while an operation of this kind is queued or running."""
    with database.reading() as session:
        _require_idle(session, kind)


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


def request_cancel(database: Database, operation_id: str) -> Operation:
    """Cancel an operation: immediately if no worker has it, otherwise its worker stops it within seconds.

    Idempotent. Raises OperationNotFound, and OperationEnded if the operation has ended or activated its release.
    """
    with database.transaction() as session:
        get_operation(session, operation_id)
        operation = _locked(session, operation_id)
        assert operation is not None
        if operation.state == CANCELLED or operation.cancel_requested_at is not None:
            return operation
        if operation.state == RUNNING and operation.result.get("is_active"):
            raise OperationEnded(
                f"{operation.id} has already activated its release; to undo that: akin release rollback"
            )
        if operation.state not in ACTIVE_STATES:
            raise OperationEnded(f"{operation.id} has already {operation.state} and can no longer be cancelled")
        operation.cancel_requested_at = operation.updated_at = now()
        if operation.state == QUEUED or _has_no_worker(session, operation):
            _end(operation, CANCELLED, {"code": "cancelled", "detail": "cancelled while no worker had it"})
        return operation


def claim_operation(database: Database, operation_id: str, worker_id: str) -> Operation | None:
    """Make a worker the owner of an operation, whoever owned it before; return None if the operation has ended."""
    with database.transaction() as session:
        operation = _locked(session, operation_id)
        if operation is None or operation.state not in ACTIVE_STATES:
            return None
        moment = now()
        operation.state, operation.worker_id = RUNNING, worker_id
        operation.started_at = operation.started_at or moment
        operation.updated_at = moment
        operation.attempts += 1
        return operation


@contextmanager
def locked_operation(database: Database, operation_id: str) -> Iterator[Operation | None]:
    """Hold the row of an operation against all other writers for the block; None if there is no such row."""
    with database.transaction() as session:
        yield _locked(session, operation_id)


@contextmanager
def owned_operation(database: Database, operation_id: str, worker_id: str) -> Iterator[Operation]:
    """Open a transaction on an operation; raises OperationLost unless it is running and this worker owns it."""
    with database.transaction() as session:
        operation = own_operation(session, operation_id, worker_id)
        yield operation
        operation.updated_at = now()


def own_operation(session: Session, operation_id: str, worker_id: str) -> Operation:
    """Return an operation of this worker, locked until the transaction ends; raises OperationLost."""
    operation = _locked(session, operation_id)
    if operation is None or operation.state != RUNNING or operation.worker_id != worker_id:
        raise OperationLost(operation_id)
    return operation


def begin_step(database: Database, operation_id: str, worker_id: str, name: str) -> bool:
    """Record that a step begins, perhaps again after an interruption; return whether a cancel was requested."""
    with owned_operation(database, operation_id, worker_id) as operation:
        operation.step, operation.progress = name, None
        steps = [step for step in operation.steps if step["name"] != name]
        first_begun = next((step["started_at"] for step in operation.steps if step["name"] == name), None)
        operation.steps = [*steps, {"name": name, "started_at": first_begun or now().isoformat(timespec="seconds")}]
        return operation.cancel_requested_at is not None


def finish_step(
    database: Database, operation_id: str, worker_id: str, name: str, facts: Mapping[str, object], seconds: float
) -> None:
    """Record that a step has finished, and add its facts to the operation's result."""
    with owned_operation(database, operation_id, worker_id) as operation:
        done = {"finished_at": now().isoformat(timespec="seconds"), "seconds": round(seconds, 2)}
        operation.steps = [step | done if step["name"] == name else step for step in operation.steps]
        operation.result = {**operation.result, **facts}
        operation.progress = None
        # Attempts count deaths without progress: an operation that advances is not the one that kills its workers.
        operation.attempts = 1


def end_operation(
    database: Database, operation_id: str, worker_id: str, state: str, error: Mapping[str, object] | None
) -> None:
    """Record how an operation ended; raises OperationLost if another worker owns it."""
    with owned_operation(database, operation_id, worker_id) as operation:
        _end(operation, state, error)


def release_claim(database: Database, operation_id: str, worker_id: str) -> None:
    """Give an operation back on an orderly stop, so that the interruption does not count as an attempt."""
    with owned_operation(database, operation_id, worker_id) as operation:
        operation.attempts = max(0, operation.attempts - 1)
        operation.progress = {"stage": "waiting for a worker"}


def _require_idle(session: Session, kind: str) -> None:
    active = session.scalar(select(Operation).where(Operation.kind == kind, Operation.state.in_(ACTIVE_STATES)))
    if active is not None:
        remedy = f"wait for it, or cancel it: akin operations cancel {active.id}"
        raise OperationActive(f"{active.id} is {active.state}; {remedy}", active.id)


def _has_no_worker(session: Session, operation: Operation) -> bool:
    """Return whether the operation's worker stopped in order, or is unknown by now."""
    worker = session.get(Process, operation.worker_id) if operation.worker_id else None
    return worker is None or worker.stopped_at is not None


def _locked(session: Session, operation_id: str) -> Operation | None:
    # A decision about a state needs the latest one: SQLite admits one writer at a time, PostgreSQL locks the row.
    query = select(Operation).where(Operation.id == operation_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update())


def _end(operation: Operation, state: str, error: Mapping[str, object] | None) -> None:
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
