"""Describe errors as problem JSON (RFC 9457): the one place that maps an error class to an HTTP status.

The stable `code` of a problem is that of the error's class.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from embedding.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from service.access.errors import (
    ExpiredKey,
    InsufficientScope,
    InvalidKey,
    InvalidKeyRequest,
    KeyInAddress,
    KeyNameTaken,
    KeyNotFound,
    KeysUnavailable,
    LastAdminKey,
    MissingKey,
    RevokedKey,
)
from service.catalogue.errors import EmptyCatalogue, InvalidArchive, InvalidImportSource, ProductNotFound
from service.errors import InvalidParameter, ServiceError, StorageFull, code_of, is_disk_full
from service.evaluations.errors import EvaluationNotFound, NotComparable
from service.labels.errors import ImageNotFound, InvalidLabels
from service.operations.errors import (
    IdempotencyKeyReused,
    InvalidOperation,
    OperationActive,
    OperationEnded,
    OperationNotFound,
)
from service.releases.errors import (
    ActivationConflict,
    BuilderBusy,
    InvalidRelease,
    NoActiveRelease,
    NoPreviousRelease,
    ReleaseNotFound,
)
from service.storage.errors import DatabaseUnavailable
from service.web.errors import (
    BodyTooLarge,
    BodyTooSlow,
    ClientLeft,
    EmptyBody,
    ImageNotShown,
    InvalidBase64,
    InvalidForm,
    MediaUnavailable,
    NotReady,
    Overloaded,
    UnsupportedContentType,
)

log = structlog.get_logger(__name__)

# The most derived class with an entry decides. An error of any other class is unexpected: 500.
STATUSES: dict[type[Exception], int] = {
    BodyTooLarge: 413,
    EmptyBody: 422,
    UnsupportedContentType: 415,
    InvalidForm: 422,
    InvalidBase64: 422,
    InvalidParameter: 422,
    UnsupportedImageFormat: 415,
    ImageTooLarge: 413,
    InvalidImage: 422,
    NoActiveRelease: 503,
    ImageNotShown: 404,
    MediaUnavailable: 503,
    DatabaseUnavailable: 503,
    MissingKey: 401,
    InvalidKey: 401,
    ExpiredKey: 401,
    RevokedKey: 401,
    InsufficientScope: 403,
    KeyInAddress: 400,
    KeysUnavailable: 503,
    KeyNotFound: 404,
    KeyNameTaken: 409,
    LastAdminKey: 409,
    InvalidKeyRequest: 422,
    Overloaded: 503,
    NotReady: 503,
    StorageFull: 507,
    BodyTooSlow: 408,
    ClientLeft: 499,
    ProductNotFound: 404,
    ImageNotFound: 404,
    InvalidLabels: 422,
    InvalidArchive: 422,
    InvalidImportSource: 422,
    EmptyCatalogue: 409,
    ReleaseNotFound: 404,
    InvalidRelease: 409,
    NoPreviousRelease: 409,
    BuilderBusy: 409,
    ActivationConflict: 409,
    OperationNotFound: 404,
    OperationActive: 409,
    OperationEnded: 409,
    IdempotencyKeyReused: 422,
    InvalidOperation: 422,
    EvaluationNotFound: 404,
    NotComparable: 409,
}
_CLIENT_LEFT = 499
_RETRY_SECONDS = 1
PROBLEM_MEDIA_TYPE = "application/problem+json"
Describe = Callable[[Request, Exception], JSONResponse]


def as_handler(describe: Describe) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """Return a function of this module as a handler that answers at once.

    A plain function would be run in the framework's pool of threads, and wait there behind routes that wait for a
    database.
    """

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return describe(request, error)

    return handle


def known_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe an error whose class has an entry in STATUSES."""
    status = next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)
    members: Mapping[str, object] = getattr(error, "members", {})
    return _problem(request, status, code_of(error), str(error), headers=_headers(status), **members)


def _headers(status: int) -> dict[str, str]:
    """Return what a client is told besides: how to show a key, or when to ask again."""
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    if status == HTTPStatus.FORBIDDEN:
        return {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(_RETRY_SECONDS)}
    return {}


def _title(status: int) -> str:
    # nginx's number for a client that left, which the standard does not have.
    return "Client Closed Request" if status == _CLIENT_LEFT else HTTPStatus(status).phrase


def disk_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe an error of the system that means a full disk; any other is as unexpected as without this."""
    if not is_disk_full(error):
        raise error
    log.error("storage_full", reason=str(error))
    return known_problem(request, StorageFull("the server's disk is full, and this was not done; the log says where"))


def http_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe what the framework refuses (no such route, wrong method) as problem JSON."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, Exception) and isinstance(cause, tuple(STATUSES)):
        # Raised where the framework read the body, which it tells of with a 400 of its own.
        return known_problem(request, cause)
    if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
        # So the framework calls a body that its parser gave up on: numbers or nesting without end, no UTF-8.
        return _problem(
            request, HTTPStatus.UNPROCESSABLE_ENTITY, InvalidParameter.code, "body: it cannot be read as JSON"
        )
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return _problem(request, error.status_code, code, str(error.detail), headers=error.headers)


def validation_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe parameters that do not fit their schema, each by name and with the value that was sent."""
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["loc"][0] == "body" for detail in details) and not _is_json(request):
        given = request.headers.get("content-type", "")
        shown = f"{given!r:.80} is not read here" if given else "the request has no Content-Type"
        return known_problem(request, UnsupportedContentType(f"{shown}; send application/json"))
    for detail in details:
        if detail["type"] == "json_invalid":
            reason = detail.get("ctx", {}).get("error", "it cannot be read")
            summary = f"body: it is not JSON: {reason} (at character {detail['loc'][-1]})"
            return _invalid_request(request, summary)
    reasons = [
        {
            "parameter": ".".join(str(part) for part in detail["loc"][1:]) or str(detail["loc"][0]),
            "in": str(detail["loc"][0]),
            "reason": detail["msg"],
            "value": str(detail.get("input"))[:100],
        }
        for detail in details
    ]
    summary = "; ".join(f"{reason['parameter']}: {reason['reason']} (got {reason['value']!r})" for reason in reasons)
    return _invalid_request(request, summary, errors=reasons)


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def unexpected_problem(request: Request) -> JSONResponse:
    """Say nothing of an unknown error but where to look it up; its details are in the log."""
    return _problem(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        ServiceError.code,
        "an unexpected error occurred; the log has it under this request id",
    )


def _invalid_request(request: Request, detail: str, errors: Sequence[object] = ()) -> JSONResponse:
    members = {"errors": errors} if errors else {}
    return _problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, InvalidParameter.code, detail, headers=None, **members)


def _problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> JSONResponse:
    # For the audit log and the metrics, which see only bytes go by.
    request.state.problem_code = code
    body = {
        "type": f"/problems/{code}",
        "title": _title(status),
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", None),
        **members,
    }
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM_MEDIA_TYPE)
