"""What a worker writes to the row of an operation that it has claimed.

Every write names the worker, so that one that was declared dead and wakes up later changes nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.orm import Session

from service.operations.records import lock_operation, write_end
from service.storage.database import Database, now
from service.storage.tables.operations import ACTIVE_STATES, RUNNING, Operation


class OperationLost(BaseException):
    """The operation now belongs to another worker.

    Not an Exception, so that no step handles it as a failure of its own.
    """


def claim_operation(database: Database, operation_id: str, worker_id: str) -> Operation | None:
    """Make a worker the owner of an operation, whoever owned it before; return None if the operation has ended."""
    with database.transaction() as session:
        operation = lock_operation(session, operation_id)
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
        yield lock_operation(session, operation_id)


@contextmanager
def owned_operation(database: Database, operation_id: str, worker_id: str) -> Iterator[Operation]:
    """Open a transaction on an operation; raises OperationLost unless it is running and this worker owns it."""
    with database.transaction() as session:
        operation = own_operation(session, operation_id, worker_id)
        yield operation
        operation.updated_at = now()


def own_operation(session: Session, operation_id: str, worker_id: str) -> Operation:
    """Return an operation of this worker, locked until the transaction ends; raises OperationLost."""
    operation = lock_operation(session, operation_id)
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
        # Only attempts without progress count: an operation that finishes steps does not kill its workers.
        operation.attempts = 1


def end_operation(
    database: Database, operation_id: str, worker_id: str, state: str, error: Mapping[str, object] | None
) -> None:
    """Record how an operation ended; raises OperationLost if another worker owns it."""
    with owned_operation(database, operation_id, worker_id) as operation:
        write_end(operation, state, error)


def give_back_operation(database: Database, operation_id: str, worker_id: str) -> None:
    """Give an operation back on an orderly stop, so that the interruption does not count as an attempt."""
    with owned_operation(database, operation_id, worker_id) as operation:
        operation.attempts = max(0, operation.attempts - 1)
        operation.progress = {"stage": "waiting for a worker"}
