"""What can go wrong in the running system, and how HTTP says it: the only module that knows status codes.

ServiceError
├── InvalidSetting               a setting that cannot be used
├── DatabaseError                the database cannot be used
│   ├── DatabaseUnavailable      it does not answer
│   └── DatabaseVersionError     it was written by a newer version of Akin
├── CatalogueError
│   ├── InvalidImportSource      what is to be imported cannot be read at all
│   ├── ProductNotFound
│   ├── ImageNotFound            no picture of the catalogue has the id
│   ├── InvalidLabels            rows of labels of which none can be used, or a file of them that cannot be read
│   ├── InvalidArchive           an archive that is damaged, or would write where it may not
│   ├── EmptyCatalogue           nothing to build an index from
│   └── SampleDirectoryNotEmpty
├── MediaError                   a stored picture is missing or damaged, or the store does not answer
├── MediaUnavailable             the same, as a client is told
├── PictureNotShown              no product on show has the picture
├── ReleaseError
│   ├── NoActiveRelease
│   ├── ReleaseNotFound
│   ├── InvalidRelease           a release whose files are damaged or do not fit together
│   ├── NoPreviousRelease        there is nothing to roll back to
│   ├── ReleaseInUse             a release that is served, or is needed by an operation
│   ├── BuilderBusy              another process writes a release
│   └── ActivationConflict       somebody else activated a release in between
├── OperationError
│   ├── OperationNotFound
│   ├── OperationActive          one of its kind is under way already
│   ├── OperationEnded           it has ended, and cannot be cancelled any more
│   ├── IdempotencyKeyReused     the same key came with another request
│   ├── InvalidOperation         a request for work that cannot be done as asked for
│   └── TrainingFailed           the training process ended without a checkpoint
├── EvaluationNotFound
├── NotComparable                two evaluations on different sets of queries
├── AccessError
│   ├── MissingKey               a route that needs a key was asked without one
│   └── InvalidKey               the key is not known here
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


class ImageNotFound(CatalogueError):
    """No picture of the catalogue has this id."""


class InvalidLabels(CatalogueError):
    """Labels of which none can be used, or a file of them that cannot be read at all."""


class InvalidArchive(CatalogueError):
    """An archive is damaged, too large when unpacked, or holds paths that lead out of it."""


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


class NoPreviousRelease(ReleaseError):
    """There is no release to roll back to."""


class ReleaseInUse(ReleaseError):
    """A release is served, or an operation needs it."""


class BuilderBusy(ReleaseError):
    """Another process writes a release at this moment."""


class OperationError(ServiceError):
    """Something is wrong with an operation."""


class OperationNotFound(OperationError):
    """No operation has this id."""


class OperationActive(OperationError):
    """An operation of this kind is under way; `operation_id` names it."""

    def __init__(self, message: str, operation_id: str) -> None:
        super().__init__(message)
        self.operation_id = operation_id

    @property
    def members(self) -> dict[str, object]:
        """What the problem document says besides."""
        return {"operation_id": self.operation_id}


class OperationEnded(OperationError):
    """An operation has ended already."""


class IdempotencyKeyReused(OperationError):
    """A key that stands for one request came with another."""


class InvalidOperation(OperationError):
    """Work is asked for that cannot be done so."""


class TrainingFailed(OperationError):
    """The training process ended without a checkpoint."""


class EvaluationNotFound(ServiceError):
    """No evaluation has this id."""


class NotComparable(ServiceError):
    """Two evaluations are of different sets of queries."""


class AccessError(ServiceError):
    """A route may not be used by who asks."""


class MissingKey(AccessError):
    """A key is needed and none came."""


class InvalidKey(AccessError):
    """The key that came is not known."""


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
    MissingKey: (401, "missing-key"),
    InvalidKey: (401, "invalid-key"),
    ProductNotFound: (404, "product-not-found"),
    ImageNotFound: (404, "image-not-found"),
    InvalidLabels: (422, "invalid-labels"),
    InvalidArchive: (422, "invalid-archive"),
    InvalidImportSource: (422, "invalid-import-source"),
    EmptyCatalogue: (409, "empty-catalogue"),
    ReleaseNotFound: (404, "release-not-found"),
    InvalidRelease: (409, "invalid-release"),
    NoPreviousRelease: (409, "no-previous-release"),
    ReleaseInUse: (409, "release-in-use"),
    BuilderBusy: (409, "builder-busy"),
    ActivationConflict: (409, "activation-conflict"),
    OperationNotFound: (404, "operation-not-found"),
    OperationActive: (409, "operation-active"),
    OperationEnded: (409, "operation-ended"),
    IdempotencyKeyReused: (422, "idempotency-key-reused"),
    InvalidOperation: (422, "invalid-operation"),
    EvaluationNotFound: (404, "evaluation-not-found"),
    NotComparable: (409, "not-comparable"),
}
INVALID_REQUEST = (422, "invalid-request")
INTERNAL_ERROR = (500, "internal-error")
PROBLEM_MEDIA_TYPE = "application/problem+json"


def known_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe an error of PROBLEMS as problem JSON (RFC 9457)."""
    status, code = next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)
    members: Mapping[str, object] = getattr(error, "members", {})
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, AccessError) else None
    return _problem(request, status, code, str(error), headers=headers, **members)


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
