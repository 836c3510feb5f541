"""One row of the audit log for each request that may change something, and for each refused one on the same routes."""

import asyncio
from http import HTTPStatus

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.audit import DRY_RUN, SUCCEEDED, AuditEntry
from service.access.errors import ExpiredKey, InsufficientScope, InvalidKey, KeyInAddress, MissingKey, RevokedKey
from service.access.masking import WITH_A_KEY, has_key, without_keys
from service.access.scopes import Actor
from service.access.scopes import Scope as Right
from service.errors import ServiceError
from service.web.app_state import AppState
from service.web.scope_checks import declared_scope

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSALS = frozenset(
    error.code for error in (MissingKey, InvalidKey, ExpiredKey, RevokedKey, InsufficientScope, KeyInAddress)
)
_BROKEN_OFF = "broken-off"


class AuditRecorder:
    """Records a request before its response begins, so that a client that has the response finds the row.

    A failure to record does not fail the response. Belongs inside the request log, which sets the request id, and
    outside the handlers that turn errors into responses.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_response = False

        async def send_recorded(message: Message) -> None:
            nonlocal has_response
            if message["type"] == "http.response.start" and not has_response:
                has_response = True
                await _record(scope, message["status"], _outcome(scope, message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except Exception:
            if not has_response:
                await _record(scope, HTTPStatus.INTERNAL_SERVER_ERROR, ServiceError.code)
            raise
        except asyncio.CancelledError:
            # The server is stopping; the thread of the request continues, and its outcome will not be known.
            if not has_response:
                await _record(scope, None, _BROKEN_OFF)
            raise


def note_for_audit(request: Request, *, target: str | None = None, is_dry_run: bool = False) -> None:
    """Add to the row of this request: what it created or concerns besides the path, or that it was a dry run."""
    request.state.audit_target = target
    request.state.audit_outcome = DRY_RUN if is_dry_run else SUCCEEDED


def _outcome(scope: Scope, status: int) -> str:
    state = scope.get("state", {})
    if status < 400:
        return str(state.get("audit_outcome", SUCCEEDED))
    return str(state.get("problem_code", f"status-{status}"))


async def _record(scope: Scope, status: int | None, outcome: str) -> None:
    is_refusal = outcome in _REFUSALS
    if scope["method"] in _READING and not is_refusal:
        return
    route = scope.get("route")
    if not isinstance(route, APIRoute) or scope["method"] not in (route.methods or ()):
        return
    if declared_scope(route) not in (Right.ADMIN, Right.CATALOGUE_WRITE):
        return
    state = scope.get("state", {})
    actor: Actor | None = state.get("actor")
    app_state: AppState = scope["app"].state.akin
    admin_key = app_state.settings.admin_key
    path = (scope.get("raw_path") or scope["path"].encode()).decode("ascii", "backslashreplace")
    masked = without_keys(path, admin_key, instead=f"{route.path} {WITH_A_KEY}")
    if masked == path and has_key(scope["path"], admin_key):
        # Encoded twice: the server has decoded it once.
        masked = f"{route.path} {WITH_A_KEY}"
    entry = AuditEntry(
        actor=actor.name if actor else None,
        key_id=actor.key_id if actor else None,
        action=f"{scope['method']} {route.path}",
        target=" ".join(
            (
                masked,
                *(without_keys(target, admin_key) for target in (state.get("audit_target"),) if target),
            )
        ),
        address=scope["client"][0] if scope.get("client") else "unknown",
        request_id=state.get("request_id"),
        status=status,
        outcome=outcome,
    )
    await app_state.audit.write(entry, is_limited=is_refusal or actor is None)
