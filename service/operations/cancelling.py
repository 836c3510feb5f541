"""Cancel operations."""

from sqlalchemy.orm import Session

from service.installation.installation import Installation
from service.operations.errors import OperationEnded
from service.operations.records import get_operation, lock_operation, write_end
from service.operations.uploads import remove_upload
from service.releases.records import activation_of_operation
from service.storage.database import Database, now
from service.storage.tables.operations import ACTIVE_STATES, CANCELLED, QUEUED, RUNNING, Operation
from service.storage.tables.processes import Process


def cancel_operation(installation: Installation, operation_id: str) -> Operation:
    """Do what `request_cancel` does, and remove the upload of an operation that has ended by this."""
    operation = request_cancel(installation.database, operation_id)
    if operation.finished_at is not None:
        remove_upload(installation, operation.id)
    return operation


def request_cancel(database: Database, operation_id: str) -> Operation:
    """Cancel an operation: immediately if no worker has it, otherwise its worker stops it within seconds.

    Idempotent. Raises OperationNotFound, and OperationEnded if the operation has ended or activated its release.
    """
    with database.transaction() as session:
        get_operation(session, operation_id)
        operation = lock_operation(session, operation_id)
        assert operation is not None
        if operation.state == CANCELLED or operation.cancel_requested_at is not None:
            return operation
        if operation.state == RUNNING and activation_of_operation(session, operation.id) is not None:
            raise OperationEnded(
                f"{operation.id} has already activated its release; to undo that: akin release rollback"
            )
        if operation.state not in ACTIVE_STATES:
            raise OperationEnded(f"{operation.id} has already {operation.state} and can no longer be cancelled")
        operation.cancel_requested_at = operation.updated_at = now()
        if operation.state == QUEUED or _has_no_worker(session, operation):
            write_end(operation, CANCELLED, {"code": "cancelled", "detail": "cancelled while no worker had it"})
        return operation


def _has_no_worker(session: Session, operation: Operation) -> bool:
    """Return whether the operation's worker stopped in order, or is unknown by now."""
    worker = session.get(Process, operation.worker_id) if operation.worker_id else None
    return worker is None or worker.stopped_at is not None
