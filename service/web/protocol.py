"""uvicorn's protocol with bounds on all of a request that is not its body.

By itself it keeps headers and trailers without end, and takes ever longer to read a long line, in the loop that serves
everybody. A gateway bounds them too; a server should not need one for that.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A head, the trailers of a chunked body, or the line before a chunk; counted by what arrives at a time.
MAX_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 30.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request has too large a head, or one that does not arrive."""

    _num_bytes = 0  # since the last byte of a body, or the end of a head
    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take a connection, on which a request is to arrive."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; what there is too much of ends the connection."""
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.send_400_response(f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")
            else:
                self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the head of a request."""
        self._stop_waiting()
        self._num_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, which is counted where it is read."""
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._num_bytes = 0
        super().on_message_complete()

    def _await_head(self) -> None:
        self._stop_waiting()
        self._giving_up = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
