"""Limit the bodies of requests to every route, in bytes and in time.

The framework's own limit (`max_body_size`) is not used: its response to a declared length is plain text without a
request id, and replaces the route's own response, for instance that the key is invalid.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.errors import BodyTooLarge, BodyTooSlow, ClientLeft

# The limit of routes that set none: they receive small JSON documents.
DEFAULT_BODY_BYTES = 2**20
# After an early response, at most this much of the rest is read and discarded to keep the connection.
_DROPPED_BYTES = 16 * 2**20
# Otherwise the connection is closed, after the client has had time to read the response.
_LINGER_SECONDS = 2.0
_STATE = "body"


class BodyGuard:
    """Count the bytes of each body as they arrive, chunked bodies included, and limit how long they take.

    Whatever reads the body gets BodyTooLarge, BodyTooSlow or ClientLeft.
    """

    def __init__(self, app: ASGIApp, *, timeout_seconds: float) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._timeout_seconds)
        scope.setdefault("state", {})[_STATE] = body
        await self._app(scope, body.receive, body.send)


async def read_chunks(request: Request, limit: int, too_large: str, *, may_pause: bool) -> AsyncIterator[bytes]:
    """Yield a body of at most `limit` bytes as it arrives; routes use this to receive more than the default.

    With `may_pause`, the time limit applies to each pause, not to the whole body. Raises BodyTooLarge, before reading
    if the declared length exceeds the limit; BodyTooSlow; ClientLeft.
    """
    guarded = request.scope.get("state", {}).get(_STATE)
    if isinstance(guarded, _Body):
        guarded.limit, guarded.may_pause, guarded.too_large = limit, may_pause, too_large
    if (_declared_bytes(request.scope) or 0) > limit:
        raise BodyTooLarge(too_large)
    num_bytes = 0
    try:
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > limit:
                raise BodyTooLarge(too_large)
            yield chunk
    except ClientDisconnect:
        raise _client_left() from None


class _Body:
    """The body of one request, between the server and the application."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, timeout_seconds: float) -> None:
        self.limit = DEFAULT_BODY_BYTES
        self.may_pause = False
        self.too_large = f"the body is larger than {DEFAULT_BODY_BYTES:,} bytes"
        self._receive, self._send = receive, send
        self._timeout_seconds = timeout_seconds
        self._declared_bytes = _declared_bytes(scope)
        self._num_bytes = 0
        is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        self._is_complete = not is_chunked and not self._declared_bytes
        self._began_at: float | None = None
        self._is_too_slow = False
        self._is_closing = False

    async def receive(self) -> Message:
        """Receive a message from the server; raises BodyTooLarge, BodyTooSlow, ClientLeft."""
        if self._is_complete:
            return await self._receive()
        if (self._declared_bytes or 0) > self.limit:
            raise BodyTooLarge(self.too_large)
        message = await self._next_message()
        if message["type"] == "http.disconnect":
            self._is_complete = True
            raise _client_left()
        self._take(message)
        if self._num_bytes > self.limit:
            raise BodyTooLarge(self.too_large)
        return message

    async def send(self, message: Message) -> None:
        """Send a message to the server; close the connection after the response if the rest of the body is unwanted."""
        if message["type"] == "http.response.start":
            self._is_closing = not self._is_complete and self._is_rest_unwanted()
            if self._is_closing:
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (is_last and self._is_closing):
            await self._send(message)
            return
        # Closing a connection with unread bytes resets it, and the client may lose the response.
        await self._send({**message, "more_body": True})
        await self._drop_rest()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next_message(self) -> Message:
        now = asyncio.get_running_loop().time()
        if self._began_at is None or self.may_pause:
            self._began_at = now
        try:
            async with asyncio.timeout_at(self._began_at + self._timeout_seconds):
                return await self._receive()
        except TimeoutError:
            self._is_too_slow = True
            how = "paused for" if self.may_pause else "did not arrive within"
            raise BodyTooSlow(f"the body {how} {self._timeout_seconds:g} s") from None

    async def _drop_rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._is_complete:
                    self._take(await self._receive())

    def _take(self, message: Message) -> None:
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)

    def _is_rest_unwanted(self) -> bool:
        if self._is_too_slow or self._declared_bytes is None:
            return True
        return self._declared_bytes - self._num_bytes > _DROPPED_BYTES


def _declared_bytes(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            # A longer number exceeds every limit, and is slow to parse.
            return int(value[:20])
    return None


def _client_left() -> ClientLeft:
    return ClientLeft("the client disconnected before the request was complete")
