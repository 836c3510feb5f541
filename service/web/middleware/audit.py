"""One row of the audit log for each request that may change something, and for each refused one on the same routes."""

import asyncio
from http import HTTPStatus

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.audit import DRY_RUN, SUCCEEDED, AuditEntry
from service.access.errors import ExpiredKey, InsufficientScope, InvalidKey, KeyInAddress, MissingKey, RevokedKey
from service.access.keys import WITH_A_KEY, without_keys
from service.access.scopes import Actor
from service.access.scopes import Scope as Right
from service.errors import ServiceError
from service.web.app_state import AppState
from service.web.route_scopes import declared_scope

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSALS = frozenset(
    error.code for error in (MissingKey, InvalidKey, ExpiredKey, RevokedKey, InsufficientScope, KeyInAddress)
)
_BROKEN_OFF = "broken-off"


class AuditRecorder:
    """Records before the answer begins, so that whoever has one finds the row; an answer never fails by it.

    Stands between the log of requests, which makes the request id, and whatever turns errors into answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_answer = False

        async def send_recorded(message: Message) -> None:
            nonlocal has_answer
            if message["type"] == "http.response.start" and not has_answer:
                has_answer = True
                await _record(scope, message["status"], _outcome(scope, message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except Exception:
            if not has_answer:
                await _record(scope, HTTPStatus.INTERNAL_SERVER_ERROR, ServiceError.code)
            raise
        except asyncio.CancelledError:
            # The server ends; what the request's thread does goes on, and nobody will be told how it ended.
            if not has_answer:
                await _record(scope, None, _BROKEN_OFF)
            raise


def note_for_audit(request: Request, *, target: str | None = None, is_dry_run: bool = False) -> None:
    """Have the row of this request say more: what was made or meant besides the path, or that nothing was written."""
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
    entry = AuditEntry(
        actor=actor.name if actor else None,
        key_id=actor.key_id if actor else None,
        action=f"{scope['method']} {route.path}",
        target=" ".join(
            (
                without_keys(path, admin_key, instead=f"{route.path} {WITH_A_KEY}"),
                *(without_keys(target, admin_key) for target in (state.get("audit_target"),) if target),
            )
        ),
        address=scope["client"][0] if scope.get("client") else "unknown",
        request_id=state.get("request_id"),
        status=status,
        outcome=outcome,
    )
    await app_state.audit.write(entry, is_limited=is_refusal or actor is None)
