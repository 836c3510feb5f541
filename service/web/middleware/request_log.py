"""Log one line per request, and count it."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import structlog
from pydantic import SecretStr
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.masking import WITH_A_KEY, without_keys
from service.access.scopes import Actor
from service.web.errors import NotReady
from service.web.metrics import ServerMetrics
from service.web.problems import known_problem, unexpected_problem
from service.web.readiness import ProcessState

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = b"x-request-id"
# Request ids that are accepted from a gateway. Anything else would let clients write into the log.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Requested every few seconds by gateways and Prometheus; logged at level info only when they fail.
_QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
# The route of requests that match none: paths made up by clients must not become labels or fields.
UNKNOWN_ROUTE = "unknown"
_LONGEST_PATH = 500
_LONGEST_CLIENT = 64
_CLOSE = (b"connection", b"close")


class RequestLog:
    """Give each request an id, send it in the response, and log and count the request when the response is complete.

    Unexpected errors end here, with a traceback in the log and a bare 500 response, and so do requests that the
    shutdown cancels, with a 503 response.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        process_state: ProcessState,
        admin_key: SecretStr | None = None,
        cross_origin: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    ) -> None:
        self._app = cross_origin(app)
        # The responses that are made here must be readable for web applications of other origins too.
        self._cross_origin = cross_origin
        self._admin_key = admin_key
        self._metrics = metrics
        self._process_state = process_state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(_request_id(scope))
        scope.setdefault("state", {})["request_id"] = seen.request_id

        async def counted_receive() -> Message:
            message = await receive()
            seen.bytes_in += len(message.get("body", b""))
            return message

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                headers = [*message.get("headers", []), (REQUEST_ID_HEADER, seen.request_id.encode())]
                # Otherwise the shutdown would close the connection later, perhaps during the next request.
                message["headers"] = [*headers, _CLOSE] if self._process_state.is_draining else headers
            else:
                seen.bytes_out += len(message.get("body", b""))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=seen.request_id):
            try:
                await self._app(scope, counted_receive, send_with_id)
            except asyncio.CancelledError:
                if seen.status or not self._process_state.is_draining:
                    raise
                response = known_problem(Request(scope), _cut_off())
                await self._cross_origin(response)(scope, receive, send_with_id)
            except Exception:
                log.exception("request_failed")
                if seen.status:
                    raise  # a response that has begun can only be aborted
                await self._cross_origin(unexpected_problem(Request(scope)))(scope, receive, send_with_id)
            finally:
                self._note(scope, seen)

    def _note(self, scope: Scope, seen: "_Seen") -> None:
        seconds = time.perf_counter() - seen.start
        route = _route_of(scope)
        self._metrics.record_request(method=scope["method"], route=route, status=seen.status, seconds=seconds)
        is_quiet = seen.status < 400 and route in _QUIET_ROUTES
        client, actor = scope.get("client"), scope["state"].get("actor")
        log.log(
            logging.DEBUG if is_quiet else logging.INFO,
            "request",
            method=scope["method"],
            route=route,
            # Truncated only after keys are masked: part of a key would not be recognised.
            path=without_keys(scope["path"], self._admin_key, instead=f"{route} {WITH_A_KEY}")[:_LONGEST_PATH],
            status=seen.status,
            milliseconds=round(1000 * seconds, 1),
            client=client[0][:_LONGEST_CLIENT] if client else None,
            actor=actor.name if isinstance(actor, Actor) else None,
            bytes_in=seen.bytes_in,
            bytes_out=seen.bytes_out,
        )


@dataclass(slots=True)
class _Seen:
    """What is recorded of a request."""

    request_id: str
    start: float = field(default_factory=time.perf_counter)
    status: int = 0  # no response yet
    bytes_in: int = 0
    bytes_out: int = 0


def _cut_off() -> NotReady:
    message = "the process is shutting down and did not finish the request in time; send it again"
    return NotReady(message, {"process": {"ok": False, "reason": "shutting down"}})


def _route_of(scope: Scope) -> str:
    """Return the path template of the matched route, such as /media/{name}."""
    path = getattr(scope.get("route"), "path", None)
    if path is None and "endpoint" in scope:
        # The framework's own routes and mounts set only the endpoint.
        routes = (route for route in scope["app"].routes if isinstance(route, Route | Mount))
        path = next((route.path for route in routes if _endpoint(route) is scope["endpoint"]), None)
    return path or UNKNOWN_ROUTE


def _endpoint(route: Route | Mount) -> object:
    return route.app if isinstance(route, Mount) else route.endpoint


def _request_id(scope: Scope) -> str:
    given = cast(bytes, dict(scope["headers"]).get(REQUEST_ID_HEADER, b""))
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
