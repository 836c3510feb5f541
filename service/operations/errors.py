"""What can go wrong with a request for work.

ServiceError
└── OperationError
    ├── OperationNotFound
    ├── OperationActive       one of its kind is under way already
    ├── OperationEnded        it has ended, and cannot be cancelled any more
    ├── IdempotencyKeyReused  the same key came with another request
    └── InvalidOperation      a request for work that cannot be done as asked for
"""

from service.errors import ServiceError


class OperationError(ServiceError):
    """Something is wrong with an operation."""

    code = "operation-error"


class OperationNotFound(OperationError):
    """No operation has this id."""

    code = "operation-not-found"


class OperationActive(OperationError):
    """An operation of this kind is under way; `operation_id` names it."""

    code = "operation-active"

    def __init__(self, message: str, operation_id: str) -> None:
        super().__init__(message)
        self.operation_id = operation_id

    @property
    def members(self) -> dict[str, object]:
        """What the problem document says besides."""
        return {"operation_id": self.operation_id}


class OperationEnded(OperationError):
    """An operation has ended already."""

    code = "operation-ended"


class IdempotencyKeyReused(OperationError):
    """A key that stands for one request came with another."""

    code = "idempotency-key-reused"


class InvalidOperation(OperationError):
    """Work is asked for that cannot be done so."""

    code = "invalid-operation"
