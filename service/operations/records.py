"""Operations as the database knows them: the record of each, and the queue that workers take from.

Whoever asks only writes a row; that is one transaction, so a request is kept whole or not at all. From then on the row
belongs to the worker named in it: every later write names that worker, so that one which was given up for dead and
comes back can change nothing.
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
from service.storage.database import Database, now
from service.storage.tables.operations import CANCELLED, QUEUED, RUNNING, Operation, Process

ACTIVE_STATES = (QUEUED, RUNNING)


class OperationLost(BaseException):
    """The operation belongs to another worker now. No Exception: nobody may take it for a step's failure."""


def create_operation(
    database: Database,
    kind: str,
    request: Mapping[str, Any],
    *,
    actor: str,
    idempotency_key: str | None = None,
    operation_id: str | None = None,
    is_second_try: bool = False,
) -> tuple[Operation, bool]:
    """Queue an operation; return it, and False where the same request had made it before (`idempotency_key`).

    Raises IdempotencyKeyReused when the key came with another request, and OperationActive when one of this kind is
    under way.
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
            require_idle(session, kind)
            session.add(operation)
    except (IntegrityError, OperationActive):
        # Somebody asked at the same moment, perhaps the same: what stood in the way is now there to be seen.
        with database.reading() as session:
            earlier = _same_request(session, idempotency_key, digest)
            if earlier is not None:
                return earlier, False
            require_idle(session, kind)
        if is_second_try:
            raise
        # It has ended in between.
        return create_operation(
            database, kind, request, actor=actor, idempotency_key=idempotency_key, operation_id=operation_id,
            is_second_try=True,
        )  # fmt: skip
    return operation, True


def new_operation_id(kind: str, moment: datetime | None = None) -> str:
    """Return an id that sorts by time and says what it is of."""
    return f"{kind}-{moment or now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def require_idle(session: Session, kind: str) -> None:
    """Raise OperationActive when an operation of this kind is under way."""
    active = session.scalar(select(Operation).where(Operation.kind == kind, Operation.state.in_(ACTIVE_STATES)))
    if active is not None:
        remedy = f"wait for it, or cancel it: akin operations cancel {active.id}"
        raise OperationActive(f"{active.id} is {active.state}; {remedy}", active.id)


def get_operation(session: Session, operation_id: str) -> Operation:
    """Return an operation; raises OperationNotFound."""
    operation = session.get(Operation, operation_id)
    if operation is None:
        raise OperationNotFound(f"there is no operation {operation_id[:80]!r}; see: akin operations list")
    return operation


def list_operations(
    session: Session,
    *,
    kind: str | None = None,
    states: Collection[str] = (),
    limit: int = 50,
    before: str | None = None,
) -> list[Operation]:
    """Return operations, the newest first; `before` is the id of the last one of an earlier list."""
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
    """Return how many operations there are, by kind and state; those that there are none of are left out."""
    query = select(Operation.kind, Operation.state, func.count()).group_by(Operation.kind, Operation.state)
    return {(kind, state): number for kind, state, number in session.execute(query)}


def request_cancel(database: Database, operation_id: str) -> Operation:
    """Cancel an operation: at once while it waits, within seconds where a worker has it.

    Asking twice is asking once. Raises OperationNotFound, and OperationEnded with the state that it ended in.
    """
    with database.transaction() as session:
        get_operation(session, operation_id)
        operation = _locked(session, operation_id)
        assert operation is not None
        if operation.state == CANCELLED or operation.cancel_requested_at is not None:
            return operation
        if operation.state == RUNNING and operation.result.get("is_active"):
            raise OperationEnded(
                f"{operation.id} has activated its release already; go back with: akin release rollback"
            )
        if operation.state not in ACTIVE_STATES:
            raise OperationEnded(f"{operation.id} has {operation.state} already, and cannot be cancelled any more")
        operation.cancel_requested_at = operation.updated_at = now()
        if operation.state == QUEUED or _has_no_worker(session, operation):
            _end(operation, CANCELLED, {"code": "cancelled", "detail": "cancelled while no worker had it"})
        return operation


def claim_operation(database: Database, operation_id: str, worker_id: str) -> Operation | None:
    """Make an operation this worker's, whoever had it before; None when it has ended."""
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
def owned_operation(database: Database, operation_id: str, worker_id: str) -> Iterator[Operation]:
    """Open a transaction on an operation of this worker's; raises OperationLost when it is another's, or has ended."""
    with database.transaction() as session:
        operation = own_operation(session, operation_id, worker_id)
        yield operation
        operation.updated_at = now()


def own_operation(session: Session, operation_id: str, worker_id: str) -> Operation:
    """Return an operation of this worker's, locked until the transaction ends; raises OperationLost."""
    operation = _locked(session, operation_id)
    if operation is None or operation.state != RUNNING or operation.worker_id != worker_id:
        raise OperationLost(operation_id)
    return operation


def begin_step(database: Database, operation_id: str, worker_id: str, name: str) -> bool:
    """Note that a step has begun, or is begun again after it was cut off; say whether somebody asked to cancel."""
    with owned_operation(database, operation_id, worker_id) as operation:
        operation.step, operation.progress = name, None
        steps = [step for step in operation.steps if step["name"] != name]
        first_begun = next((step["started_at"] for step in operation.steps if step["name"] == name), None)
        operation.steps = [*steps, {"name": name, "started_at": first_begun or now().isoformat(timespec="seconds")}]
        return operation.cancel_requested_at is not None


def finish_step(
    database: Database, operation_id: str, worker_id: str, name: str, facts: Mapping[str, object], seconds: float
) -> None:
    """Note what a step has left behind."""
    with owned_operation(database, operation_id, worker_id) as operation:
        done = {"finished_at": now().isoformat(timespec="seconds"), "seconds": round(seconds, 2)}
        operation.steps = [step | done if step["name"] == name else step for step in operation.steps]
        operation.result = {**operation.result, **facts}
        operation.progress = None
        # A worker that gets on is no worker that dies of the work.
        operation.attempts = 1


def end_operation(
    database: Database, operation_id: str, worker_id: str, state: str, error: Mapping[str, object] | None
) -> None:
    """Write how an operation ended; raises OperationLost when it is another worker's."""
    with owned_operation(database, operation_id, worker_id) as operation:
        _end(operation, state, error)


def release_claim(database: Database, operation_id: str, worker_id: str) -> None:
    """Give an operation up in good order, so that its being begun again counts as no failure."""
    with owned_operation(database, operation_id, worker_id) as operation:
        operation.attempts = max(0, operation.attempts - 1)
        operation.progress = {"stage": "waiting for a worker"}


def _has_no_worker(session: Session, operation: Operation) -> bool:
    """Tell whether the worker of an operation has stopped in good order, or is long forgotten."""
    worker = session.get(Process, operation.worker_id) if operation.worker_id else None
    return worker is None or worker.stopped_at is not None


def _locked(session: Session, operation_id: str) -> Operation | None:
    # Whoever decides on a state must see the newest one: SQLite lets in one writer at a time, PostgreSQL locks the row.
    query = select(Operation).where(Operation.id == operation_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update())


def _end(operation: Operation, state: str, error: Mapping[str, object] | None) -> None:
    operation.state = state
    operation.finished_at = operation.updated_at = now()
    operation.progress = None
    # The step that it ended in is over as well.
    ended_at = operation.finished_at.isoformat(timespec="seconds")
    operation.steps = [{"finished_at": ended_at, **step} for step in operation.steps]
    operation.error = None if error is None else dict(error)


def _same_request(session: Session, idempotency_key: str | None, digest: str) -> Operation | None:
    if idempotency_key is None:
        return None
    earlier = session.scalar(select(Operation).where(Operation.idempotency_key == idempotency_key))
    if earlier is not None and earlier.request_sha256 != digest:
        raise IdempotencyKeyReused(
            f"the Idempotency-Key {idempotency_key[:80]!r} came with another request before ({earlier.id}); "
            "take a new key for a new request"
        )
    return earlier
