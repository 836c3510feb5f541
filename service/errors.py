"""What can go wrong in the running system, and its status over HTTP: the only module that knows status codes.

ServiceError
├── InvalidSetting               a setting that cannot be used
├── StorageFull                  a disk has no space left
│   └── InvalidParameter
"""

import errno
import os
from typing import ClassVar

from embedding.errors import EmbeddingError
from index.errors import VectorIndexError
from training.errors import TrainingError


class ServiceError(Exception):
    """Base of every error of this room; its message is safe to show to a client.

    `code` is stable: clients switch on it, over HTTP, in an operation's record and in the audit log.
    """

    code: ClassVar[str] = "internal-error"

    @property
    def reason(self) -> str:
        """What is wrong, for logs and terminals; may name more than the message, such as a host or a user."""
        return str(self)


class InvalidSetting(ServiceError):
    """A setting has a value that cannot be used."""

    code = "invalid-setting"


class StorageFull(ServiceError):
    """A disk has no space left for what is to be written."""

    code = "storage-full"


class InvalidParameter(ServiceError):
    """A parameter has a value outside its range."""

    code = "invalid-request"


# The bases of all errors that Akin raises on purpose.
KNOWN_ERRORS = (ServiceError, EmbeddingError, VectorIndexError, TrainingError)
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def reason_of(error: Exception) -> str:
    """Return what is wrong, for logs and terminals; may name more than a client is told."""
    return error.reason if isinstance(error, ServiceError) else str(error)


def code_of(error: BaseException) -> str:
    """Return the stable code of any error: the one way for HTTP, operations, the audit log and the terminal."""
    if is_disk_full(error):
        return StorageFull.code
    if isinstance(error, KNOWN_ERRORS):
        return error.code
    if isinstance(error, OSError):
        return "storage-error"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else ServiceError.code


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, reports a disk without free space."""
    while error.__cause__ is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        error = error.__cause__
    # Some libraries raise an OSError of their own that contains only the operating system's text.
    return isinstance(error, OSError) and (error.errno in _DISK_FULL or os.strerror(errno.ENOSPC) in str(error))
