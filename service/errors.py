"""What can go wrong in the running system, and its status over HTTP: the only module that knows status codes.

ServiceError
├── InvalidSetting               a setting that cannot be used
├── MediaUnavailable             the same, as a client is told
├── ImageNotShown              no product on show has the image
├── Overloaded                   as many searches as the process may have are in progress
├── NotReady                     the server is not to be given requests, and why
├── StorageFull                  a disk has no space left
├── RequestError                 a request that cannot be understood
│   ├── BodyTooLarge
│   ├── BodyTooSlow
│   ├── ClientLeft               the client went away before it had its answer
│   ├── EmptyBody
│   ├── UnsupportedContentType
│   ├── InvalidForm
│   ├── InvalidBase64
│   └── InvalidParameter
"""

import errno
import os
from collections.abc import Mapping
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


class MediaUnavailable(ServiceError):
    """An image on show cannot be read; where it should be is nothing for clients."""

    code = "media-unavailable"


class ImageNotShown(ServiceError):
    """No product on show has the image."""

    code = "media-not-found"


class Overloaded(ServiceError):
    """As many searches as a process may have are in progress."""

    code = "overloaded"


class NotReady(ServiceError):
    """The server is not to be given requests; `members` says what is not ready."""

    code = "not-ready"

    def __init__(self, message: str, checks: Mapping[str, object]) -> None:
        super().__init__(message)
        self.checks = checks

    @property
    def members(self) -> dict[str, object]:
        """What the problem document says besides."""
        return {"checks": self.checks}


class StorageFull(ServiceError):
    """A disk has no space left for what is to be written."""

    code = "storage-full"


class RequestError(ServiceError):
    """A request cannot be understood."""

    code = "request-error"


class BodyTooLarge(RequestError):
    """The body of a request exceeds the limit."""

    code = "body-too-large"


class BodyTooSlow(RequestError):
    """The body of a request does not arrive."""

    code = "body-too-slow"


class ClientLeft(RequestError):
    """The client went away before it had its answer."""

    code = "client-left"


class EmptyBody(RequestError):
    """A request that needs an image has no body."""

    code = "empty-body"


class UnsupportedContentType(RequestError):
    """A body has a content type that the route does not read."""

    code = "unsupported-content-type"


class InvalidForm(RequestError):
    """A multipart form cannot be read or lacks its image."""

    code = "invalid-form"


class InvalidBase64(RequestError):
    """A JSON body whose image is not base64."""

    code = "invalid-base64"


class InvalidParameter(RequestError):
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
