"""Logs: JSON lines off a terminal, one canonical line a request."""

import logging
import re
import sys
import time
import uuid
from typing import cast

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import unexpected_problem

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = b"x-request-id"
# What a gateway may hand over: anything else would let a client write into the log.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Asked every few seconds by a gateway; worth a line only when they fail.
_QUIET_PATHS = frozenset({"/livez", "/readyz"})


def configure_logging(level: str) -> None:
    """Send all logs of the process, those of libraries included, to standard error."""
    on_terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal),
    ]
    structlog.configure(
        # The level first: a line that nobody wants costs nothing.
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if on_terminal
        # Without local variables: among them are pictures, keys, and whatever else nobody meant to write down.
        else [
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for chatty in ("alembic", "faiss", "httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class RequestLog:
    """Give each request an id, return it, and log one line when the answer is complete.

    An error that nobody expected ends here: a traceback in the log, a bare 500 to the client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        start = time.perf_counter()
        status = 0  # nothing was sent yet

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (REQUEST_ID_HEADER, request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                log.exception("request_failed")
                if status:
                    raise  # an answer that has begun can only be broken off
                await unexpected_problem(Request(scope))(scope, receive, send_with_id)
            finally:
                is_quiet = status < 400 and scope["path"] in _QUIET_PATHS
                level = logging.DEBUG if is_quiet else logging.INFO
                log.log(
                    level,
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(1000 * (time.perf_counter() - start), 1),
                )


def _request_id(scope: Scope) -> str:
    given = cast(bytes, dict(scope["headers"]).get(REQUEST_ID_HEADER, b""))
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
