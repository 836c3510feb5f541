"""Errors of the room `web`.

ServiceError
├── Overloaded                  the limit of concurrent searches is reached
├── NotReady                    the server should receive no requests
├── ImageNotShown               no product of the active release has the image
├── MediaUnavailable            the file of an image cannot be read
└── RequestError                the request is invalid
    ├── InvalidHTTP             the request is not valid HTTP/1.1
    ├── InvalidFraming          the length of the body is contradictory
    ├── UnsupportedCoding       the Content-Encoding is not supported
    ├── InvalidCoding           the body does not have its Content-Encoding
    ├── BodyTooLarge
    ├── BodyTooSlow
    ├── ClientLeft              the client disconnected before the response
    ├── EmptyBody
    ├── UnsupportedContentType
    ├── InvalidForm
    └── InvalidBase64
"""

from collections.abc import Mapping
from typing import ClassVar

from service.errors import ServiceError


class Overloaded(ServiceError):
    """The limit of concurrent searches of the process is reached."""

    code = "overloaded"


class NotReady(ServiceError):
    """The server should receive no requests; `members` lists what is not ready."""

    code = "not-ready"

    def __init__(self, message: str, checks: Mapping[str, object]) -> None:
        super().__init__(message)
        self.checks = checks

    @property
    def members(self) -> dict[str, object]:
        """Additional members of the problem document."""
        return {"checks": self.checks}


class ImageNotShown(ServiceError):
    """No product of the active release has the image."""

    code = "media-not-found"


class MediaUnavailable(ServiceError):
    """The file of an image cannot be read; its location is not disclosed."""

    code = "media-unavailable"


class RequestError(ServiceError):
    """The request is invalid."""

    code = "request-error"


class InvalidHTTP(RequestError):
    """The request is not valid HTTP/1.1."""

    code = "invalid-http"


class InvalidFraming(RequestError):
    """The headers that give the length of the body contradict each other, or the body."""

    code = "invalid-framing"


class UnsupportedCoding(RequestError):
    """The body has a Content-Encoding that is not supported."""

    code = "unsupported-content-coding"
    # RFC 9110 section 15.5.16.
    headers: ClassVar[Mapping[str, str]] = {"Accept-Encoding": "gzip, deflate"}


class InvalidCoding(RequestError):
    """The body does not have the coding that its Content-Encoding declares."""

    code = "invalid-content-coding"


class BodyTooLarge(RequestError):
    """The body exceeds the limit."""

    code = "body-too-large"


class BodyTooSlow(RequestError):
    """The body does not arrive in time."""

    code = "body-too-slow"


class ClientLeft(RequestError):
    """The client disconnected before the response."""

    code = "client-left"


class EmptyBody(RequestError):
    """The request needs an image but has no body."""

    code = "empty-body"


class UnsupportedContentType(RequestError):
    """The route does not support the content type of the body."""

    code = "unsupported-content-type"


class InvalidForm(RequestError):
    """The multipart form cannot be parsed or lacks its image."""

    code = "invalid-form"


class InvalidBase64(RequestError):
    """The image in a JSON body is not base64."""

    code = "invalid-base64"
