"""The base of the errors of all rooms, the errors that several rooms raise, and the way from an error to its code.

ServiceError          each room's errors.py has its own subclasses
├── InvalidSetting    a setting cannot be used
├── InvalidParameter  a parameter of a request or command cannot be used
└── StorageFull       a disk is full
"""

import errno
import os
from typing import ClassVar

from embedding.errors import EmbeddingError
from index.errors import VectorIndexError
from training.errors import TrainingError


class ServiceError(Exception):
    """Base of the errors of the service; the message is safe to show to clients.

    `code` is stable: clients test it in responses, operations and the audit log.
    """

    code: ClassVar[str] = "internal-error"

    @property
    def reason(self) -> str:
        """The message for logs and terminals; may contain more than clients may see, such as a host or a user."""
        return str(self)


class InvalidSetting(ServiceError):
    """A setting has an invalid value."""

    code = "invalid-setting"


class StorageFull(ServiceError):
    """A disk has no space left."""

    code = "storage-full"


class InvalidParameter(ServiceError):
    """A parameter has an invalid value."""

    code = "invalid-request"


# The bases of all errors that Akin raises on purpose.
KNOWN_ERRORS = (ServiceError, EmbeddingError, VectorIndexError, TrainingError)
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def reason_of(error: Exception) -> str:
    """Return the message for logs and terminals, which may contain more than clients may see."""
    return error.reason if isinstance(error, ServiceError) else str(error)


def code_of(error: BaseException) -> str:
    """Return the stable code of any error, for responses, operations, the audit log and terminals."""
    if is_disk_full(error):
        return StorageFull.code
    if isinstance(error, KNOWN_ERRORS):
        return error.code
    if isinstance(error, OSError):
        return "storage-error"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else ServiceError.code


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, reports a full disk."""
    while error.__cause__ is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        error = error.__cause__
    # Some libraries raise an OSError without errno, with the text of the operating system.
    return isinstance(error, OSError) and (error.errno in _DISK_FULL or os.strerror(errno.ENOSPC) in str(error))
