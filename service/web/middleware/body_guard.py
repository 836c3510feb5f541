"""Limit the bodies of requests to every route, in bytes and in time, and decode their Content-Encoding.

The framework's own limit (`max_body_size`) is not used: its response to a declared length is plain text without a
request id, and replaces the route's own response, for instance that the key is invalid.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.web.errors import BodyTooLarge, BodyTooSlow, ClientLeft, InvalidFraming
from service.web.middleware.content_coding import Decoder, decoder_for
from service.web.problems import known_problem

# The limit of routes that set none: they receive small JSON documents.
DEFAULT_BODY_BYTES = 2**20
# After an early response, at most this much of the rest is read and discarded to keep the connection.
_DROPPED_BYTES = 16 * 2**20
# Otherwise the connection is closed, after the client has had time to read the response.
_LINGER_SECONDS = 2.0
_STATE = "body"
# gzip makes incompressible bytes longer by less than this, in addition to a thousandth.
_CODING_OVERHEAD_BYTES = 4096


class BodyGuard:
    """Count the bytes of each body as they arrive, chunked bodies included, and limit how long they take.

    Whatever reads the body gets BodyTooLarge, BodyTooSlow, ClientLeft, UnsupportedCoding or InvalidCoding. A request
    whose headers contradict each other about the length of the body is refused at once: no body is taken for none.
    """

    def __init__(self, app: ASGIApp, *, timeout_seconds: float) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_framing(scope)
        except InvalidFraming as error:
            response = known_problem(Request(scope), error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._timeout_seconds)
        scope.setdefault("state", {})[_STATE] = body
        await self._app(scope, body.receive, body.send)


async def read_chunks(request: Request, limit: int, too_large: str, *, may_pause: bool) -> AsyncIterator[bytes]:
    """Yield a body of at most `limit` decoded bytes as it arrives; routes use this to receive more than the default.

    With `may_pause`, the time limit applies to each pause, not to the whole body. Raises BodyTooLarge, before reading
    if the declared length exceeds the limit; BodyTooSlow; ClientLeft.
    """
    guarded = request.scope.get("state", {}).get(_STATE)
    if isinstance(guarded, _Body):
        guarded.limit, guarded.may_pause, guarded.too_large = limit, may_pause, too_large
        guarded.check_declared()
    elif (_declared_bytes(request.scope) or 0) > limit:
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
        self._codings = ",".join(_values(scope, b"content-encoding"))
        self._decoder: Decoder | None = None
        self._num_decoded = 0
        self._is_complete = not is_chunked and not self._declared_bytes
        self._is_decoded = self._is_complete
        self._began_at: float | None = None
        self._is_too_slow = False
        self._is_closing = False

    async def receive(self) -> Message:
        """Receive a message with decoded content; raises RequestError."""
        if self._is_decoded:
            return await self._receive()
        self.check_declared()
        if self._decoder is None:
            self._decoder = decoder_for(self._codings)
        if self._decoder is None:
            message = await self._next_message()
            self._is_decoded = self._is_complete
            return message
        return await self._receive_decoded(self._decoder)

    def check_declared(self) -> None:
        """Raise BodyTooLarge if the declared length exceeds the limit."""
        if (self._declared_bytes or 0) > self._encoded_limit:
            raise BodyTooLarge(self.too_large)

    @property
    def _encoded_limit(self) -> int:
        """How many bytes may arrive, before they are decoded."""
        return self.limit + (self.limit // 1000 + _CODING_OVERHEAD_BYTES if self._codings else 0)

    async def _receive_decoded(self, decoder: Decoder) -> Message:
        while not (content := decoder.read()) and not self._is_complete:
            decoder.feed((await self._next_message()).get("body", b""))
        if not content:
            decoder.finish()
            self._is_decoded = True
        self._num_decoded += len(content)
        if self._num_decoded > self.limit:
            raise BodyTooLarge(self.too_large)
        # Decoding does not wait for the client: let other requests run between two pieces.
        await asyncio.sleep(0)
        return {"type": "http.request", "body": content, "more_body": not self._is_decoded}

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
        """Receive a message of the body as it was sent."""
        now = asyncio.get_running_loop().time()
        if self._began_at is None or self.may_pause:
            self._began_at = now
        try:
            async with asyncio.timeout_at(self._began_at + self._timeout_seconds):
                message = await self._receive()
        except TimeoutError:
            self._is_too_slow = True
            how = "paused for" if self.may_pause else "did not arrive within"
            raise BodyTooSlow(f"the body {how} {self._timeout_seconds:g} s") from None
        if message["type"] == "http.disconnect":
            self._is_complete = self._is_decoded = True
            raise _client_left()
        self._take(message)
        if self._num_bytes > self._encoded_limit:
            raise BodyTooLarge(self.too_large)
        if self._is_complete and self._declared_bytes not in (None, self._num_bytes):
            raise InvalidFraming(
                f"the body has {self._num_bytes:,} bytes, and its Content-Length is {self._declared_bytes:,}"
            )
        return message

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


def _check_framing(scope: Scope) -> None:
    """Raise InvalidFraming if it is not certain where the body ends, or whether there is one."""
    lengths, codings = _values(scope, b"content-length"), _values(scope, b"transfer-encoding")
    if lengths and codings:
        raise InvalidFraming("the request has both Content-Length and Transfer-Encoding; send one of them")
    if len(set(lengths)) > 1:
        raise InvalidFraming("the request has different values of Content-Length; send one")
    if lengths and not (lengths[0].isascii() and lengths[0].isdigit()):
        raise InvalidFraming(f"Content-Length must be a number without a sign, got {lengths[0]!r:.40}")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        shown = ", ".join(codings)
        raise InvalidFraming(f"the only supported Transfer-Encoding is chunked, got {shown!r:.40}")


def _declared_bytes(scope: Scope) -> int | None:
    for value in _values(scope, b"content-length"):
        if value.isdigit():
            # A longer number exceeds every limit, and is slow to parse.
            return int(value[:20])
    return None


def _values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for name, value in scope["headers"] if name == header]


def _client_left() -> ClientLeft:
    return ClientLeft("the client disconnected before the request was complete")
