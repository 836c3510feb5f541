"""What can go wrong in the running system, and how HTTP says it: the only module that knows status codes.

ServiceError
├── InvalidSetting               a setting that cannot be used
├── DatabaseError                the database cannot be used
│   ├── DatabaseUnavailable      it does not answer
│   └── DatabaseVersionError     it was written by a newer version of Akin
├── CatalogueError
│   ├── InvalidImportSource      what is to be imported cannot be read at all
│   ├── ProductNotFound
│   ├── EmptyCatalogue           nothing to build an index from
│   └── SampleDirectoryNotEmpty
├── MediaError                   a stored picture is missing or damaged, or the store does not answer
├── MediaUnavailable             the same, as a client is told
├── PictureNotShown              no product on show has the picture
├── ReleaseError
│   ├── NoActiveRelease
│   ├── ReleaseNotFound
│   ├── InvalidRelease           a release whose files are damaged or do not fit together
│   └── ActivationConflict       somebody else activated a release in between
├── RequestError                 a request that cannot be understood
│   ├── BodyTooLarge
│   ├── EmptyBody
│   ├── UnsupportedContentType
│   ├── InvalidForm
│   ├── InvalidBase64
│   └── InvalidParameter
├── PortInUse
└── DemoError                    the demo cannot run, or found too little
"""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat


class ServiceError(Exception):
    """Base of every error of this room; its message is safe to show to a client."""


class InvalidSetting(ServiceError):
    """A setting has a value that cannot be used."""


class DatabaseError(ServiceError):
    """The database cannot be used."""


class DatabaseUnavailable(DatabaseError):
    """The database does not answer."""


class DatabaseVersionError(DatabaseError):
    """The database was written by a newer version of Akin."""


class CatalogueError(ServiceError):
    """Something is wrong with the catalogue."""


class InvalidImportSource(CatalogueError):
    """A path to import from is missing or has no layout that Akin knows."""


class ProductNotFound(CatalogueError):
    """No product has this id."""


class EmptyCatalogue(CatalogueError):
    """The catalogue has no picture to index."""


class SampleDirectoryNotEmpty(CatalogueError):
    """The sample catalogue would be written over something else."""


class MediaError(ServiceError):
    """A stored picture is missing or damaged, or the store does not answer."""


class MediaUnavailable(ServiceError):
    """A picture on show cannot be read; where it should be is nothing for clients."""


class PictureNotShown(ServiceError):
    """No product on show has the picture."""


class ReleaseError(ServiceError):
    """Something is wrong with a release."""


class NoActiveRelease(ReleaseError):
    """Nothing is served yet."""


class ReleaseNotFound(ReleaseError):
    """No release has this id."""


class InvalidRelease(ReleaseError):
    """A release's files are damaged or do not fit together."""


class ActivationConflict(ReleaseError):
    """Another release was activated in between."""


class RequestError(ServiceError):
    """A request cannot be understood."""


class BodyTooLarge(RequestError):
    """The body of a request exceeds the limit."""


class EmptyBody(RequestError):
    """A request that needs a picture has no body."""


class UnsupportedContentType(RequestError):
    """A body has a content type that the route does not read."""


class InvalidForm(RequestError):
    """A multipart form cannot be read or lacks its picture."""


class InvalidBase64(RequestError):
    """A JSON body whose picture is not base64."""


class InvalidParameter(RequestError):
    """A parameter has a value outside its range."""


class PortInUse(ServiceError):
    """Another process listens on the port."""


class DemoError(ServiceError):
    """The demo cannot run, or its search found too little."""


# Error -> HTTP status and the stable code that clients may switch on.
PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    BodyTooLarge: (413, "body-too-large"),
    EmptyBody: (422, "empty-body"),
    UnsupportedContentType: (415, "unsupported-content-type"),
    InvalidForm: (422, "invalid-form"),
    InvalidBase64: (422, "invalid-base64"),
    InvalidParameter: (422, "invalid-request"),
    UnsupportedImageFormat: (415, "unsupported-image-format"),
    ImageTooLarge: (413, "image-too-large"),
    InvalidImage: (422, "invalid-image"),
    NoActiveRelease: (503, "no-active-release"),
    PictureNotShown: (404, "media-not-found"),
    MediaUnavailable: (503, "media-unavailable"),
    DatabaseUnavailable: (503, "database-unavailable"),
}
INVALID_REQUEST = (422, "invalid-request")
INTERNAL_ERROR = (500, "internal-error")
PROBLEM_MEDIA_TYPE = "application/problem+json"


def known_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe an error of PROBLEMS as problem JSON (RFC 9457)."""
    status, code = next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)
    return _problem(request, status, code, str(error))


def http_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe what the framework refuses (no such route, wrong method) as problem JSON."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return _problem(request, error.status_code, code, str(error.detail), headers=error.headers)


def validation_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe parameters that do not fit their schema, each by name and with the value that was sent."""
    assert isinstance(error, RequestValidationError)
    reasons = [
        {
            "parameter": ".".join(str(part) for part in detail["loc"][1:]) or str(detail["loc"][0]),
            "in": str(detail["loc"][0]),
            "reason": detail["msg"],
            "value": str(detail.get("input"))[:100],
        }
        for detail in error.errors()
    ]
    summary = "; ".join(f"{reason['parameter']}: {reason['reason']} (got {reason['value']!r})" for reason in reasons)
    return _problem(request, *INVALID_REQUEST, summary, errors=reasons)


def unexpected_problem(request: Request) -> JSONResponse:
    """Say nothing of an unknown error but where to look it up; its details are in the log."""
    return _problem(request, *INTERNAL_ERROR, "an unexpected error occurred; the log has it under this request id")


def _problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> JSONResponse:
    body = {
        "type": f"/problems/{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", None),
        **members,
    }
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)
