"""What can go wrong with a request.

ServiceError
├── Overloaded                  as many searches as the process may have are in progress
├── NotReady                    the server is not to be given requests, and why
├── ImageNotShown               no product on show has the image
├── MediaUnavailable            the same, as a client is told
└── RequestError                a request that cannot be understood
    ├── BodyTooLarge
    ├── BodyTooSlow
    ├── ClientLeft              the client went away before it had its answer
    ├── EmptyBody
    ├── UnsupportedContentType
    ├── InvalidForm
    └── InvalidBase64
"""

from collections.abc import Mapping

from service.errors import ServiceError


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


class ImageNotShown(ServiceError):
    """No product on show has the image."""

    code = "media-not-found"


class MediaUnavailable(ServiceError):
    """An image on show cannot be read; where it should be is nothing for clients."""

    code = "media-unavailable"


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
