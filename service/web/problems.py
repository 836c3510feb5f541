"""Describe errors as problem JSON (RFC 9457), and map error classes to HTTP statuses.

The `code` of a problem is that of the error's class; it is stable.
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
from service.labels.errors import ImageNotFound, InvalidLabels, LabelsBeingCounted
from service.operations.errors import (
    IdempotencyKeyReused,
    InvalidOperation,
    OperationActive,
    OperationEnded,
    OperationNotFound,
    QueueFull,
)
from service.releases.errors import (
    ActivationConflict,
    BuilderBusy,
    InvalidRelease,
    NoActiveRelease,
    NoPreviousRelease,
    ReleaseNotFound,
)
from service.serving.errors import SearchTimedOut
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

# The most derived class with an entry decides. Errors of other classes are unexpected and give 500.
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
    SearchTimedOut: 503,
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
    LabelsBeingCounted: 503,
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
    QueueFull: 429,
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
    """Return `describe` as an async exception handler.

    The framework would run a plain function in its thread pool, behind routes that wait for the database.
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
    """Return the headers that tell a client how to authenticate or when to retry."""
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    if status == HTTPStatus.FORBIDDEN:
        return {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": str(_RETRY_SECONDS)}
    return {}


def _title(status: int) -> str:
    # nginx's status for a client that disconnected; not in the standard.
    return "Client Closed Request" if status == _CLIENT_LEFT else HTTPStatus(status).phrase


def disk_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe an OSError of a full disk; raise any other again as an unexpected error."""
    if not is_disk_full(error):
        raise error
    log.error("storage_full", reason=str(error))
    return known_problem(
        request, StorageFull("the server's disk is full and the request failed; the log has the location")
    )


def http_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe an HTTPException of the framework, such as an unknown route or a wrong method."""
    assert isinstance(error, HTTPException)
    cause = error.__cause__
    if isinstance(cause, Exception) and isinstance(cause, tuple(STATUSES)):
        # Raised while the framework read the body; the framework wraps it in a 400 of its own.
        return known_problem(request, cause)
    if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
        # The parser failed in an unusual way: a huge number, deep nesting, or invalid UTF-8.
        return _problem(
            request, HTTPStatus.UNPROCESSABLE_ENTITY, InvalidParameter.code, "body: cannot be parsed as JSON"
        )
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return _problem(request, error.status_code, code, str(error.detail), headers=error.headers)


def validation_problem(request: Request, error: Exception) -> JSONResponse:
    """Describe parameters that do not match their schema, each by name and with the value received."""
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["loc"][0] == "body" for detail in details) and not _is_json(request):
        given = request.headers.get("content-type", "")
        shown = f"{given!r:.80} is not supported here" if given else "the request has no Content-Type"
        return known_problem(request, UnsupportedContentType(f"{shown}; send application/json"))
    for detail in details:
        if detail["type"] == "json_invalid":
            reason = detail.get("ctx", {}).get("error", "it cannot be parsed")
            summary = f"body: not JSON: {reason} (at character {detail['loc'][-1]})"
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
    """Describe an unexpected error without its details, which are only in the log."""
    return _problem(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        ServiceError.code,
        "an unexpected error occurred; the log has its details under this request id",
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
    # For the audit log, which is a middleware and sees only the bytes of the response.
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
