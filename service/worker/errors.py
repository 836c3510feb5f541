"""Errors of the worker.

OperationError
└── TrainingFailed  the training process ended without a checkpoint
"""

from service.operations.errors import OperationError


class TrainingFailed(OperationError):
    """The training process ended without a checkpoint."""

    code = "training-failed"
