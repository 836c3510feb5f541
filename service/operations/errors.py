"""Errors of operations.

ServiceError
└── OperationError
    ├── OperationNotFound
    ├── OperationActive       another operation of this kind is queued or running
    ├── QueueFull             too many operations of this kind are queued
    ├── OperationEnded        the operation has ended and can no longer be cancelled
    ├── IdempotencyKeyReused  the key was used before, with a different request
    └── InvalidOperation      the request cannot be performed as given
"""

from service.errors import ServiceError


class OperationError(ServiceError):
    """Base class of the errors of operations."""

    code = "operation-error"


class OperationNotFound(OperationError):
    """No operation has this id."""

    code = "operation-not-found"


class OperationActive(OperationError):
    """Another operation of this kind is queued or running; `operation_id` is its id."""

    code = "operation-active"

    def __init__(self, message: str, operation_id: str) -> None:
        super().__init__(message)
        self.operation_id = operation_id

    @property
    def members(self) -> dict[str, object]:
        """Additional members of the problem document."""
        return {"operation_id": self.operation_id}


class QueueFull(OperationError):
    """Too many operations of this kind are queued or running."""

    code = "queue-full"


class OperationEnded(OperationError):
    """The operation has ended and can no longer be cancelled."""

    code = "operation-ended"


class IdempotencyKeyReused(OperationError):
    """An idempotency key was used before, with a different request."""

    code = "idempotency-key-reused"


class InvalidOperation(OperationError):
    """The request for an operation is invalid."""

    code = "invalid-operation"
