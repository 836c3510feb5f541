"""Find, list and follow operations, for HTTP and the command line; each function opens its own session."""

import time
from collections.abc import Collection, Iterator
from pathlib import Path

from service.installation.installation import Installation
from service.installation.processes import WORKER, living_processes
from service.operations.errors import InvalidOperation, OperationNotFound
from service.operations.folder import RUN
from service.operations.records import count_operations, get_operation, select_operations
from service.storage.database import Database
from service.storage.tables.operations import ACTIVE_STATES, OPERATION_STATES, QUEUED, Operation
from training.report.run_folder import REPORT

_FOLLOW_SECONDS = 0.5
_WORKER_SECONDS = 30.0


def list_operations(
    database: Database,
    *,
    kind: str | None = None,
    states: Collection[str] = (),
    limit: int = 50,
    before: str | None = None,
) -> tuple[list[Operation], bool]:
    """Return a page of operations, newest first, and whether older ones follow.

    `before` is the last id of the previous page. Raises
    InvalidOperation for an unknown state, and OperationNotFound for an unknown `before`.
    """
    for state in states:
        if state not in OPERATION_STATES:
            raise InvalidOperation(f"there is no state {state!r}; states are {', '.join(OPERATION_STATES)}")
    with database.reading() as session:
        found = select_operations(session, kind=kind, states=states, limit=limit + 1, before=before)
    return found[:limit], len(found) > limit


def find_operation(database: Database, operation_id: str = "") -> Operation:
    """Return an operation, by default the newest. Raises OperationNotFound."""
    with database.reading() as session:
        if operation_id:
            return get_operation(session, operation_id)
        newest = select_operations(session, limit=1)
    if not newest:
        raise OperationNotFound("there are no operations yet; request one: akin retrain")
    return newest[0]


def follow_operation(database: Database, operation_id: str) -> Iterator[Operation]:
    """Yield an operation's current row twice a second until it has ended; the last one is the ended row."""
    while True:
        operation = find_operation(database, operation_id)
        yield operation
        if operation.finished_at is not None:
            return
        time.sleep(_FOLLOW_SECONDS)


def find_report(installation: Installation, operation_id: str) -> Path:
    """Return the HTML report of a retrain's training run; raises OperationNotFound if there is none (yet)."""
    find_operation(installation.database, operation_id)
    path = installation.settings.operations_dir / operation_id / RUN / REPORT
    if not path.is_file():
        raise OperationNotFound(f"{operation_id} has no report: its training has not finished, or it trains nothing")
    return path


def count_active_operations(database: Database) -> int:
    """Return how many operations are queued or running."""
    with database.reading() as session:
        counts = count_operations(session)
    return sum(number for (_, state), number in counts.items() if state in ACTIVE_STATES)


def lacks_worker(database: Database, *operations: Operation) -> bool:
    """Return whether one of these operations is queued and no worker runs that would perform it."""
    return any(operation.state == QUEUED for operation in operations) and not has_living_worker(database)


def has_living_worker(database: Database) -> bool:
    """Return whether a worker has reported in the last half minute."""
    with database.reading() as session:
        return bool(living_processes(session, WORKER, within_seconds=_WORKER_SECONDS))
