"""Requests written byte by byte and servers that drop them, which no HTTP library produces."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from service.web.server import listen


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a request that was written byte by byte."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> object:
        """The stable code of a problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["x-request-id"]
        return problem["code"]


def exchange(port: int, request: bytes) -> Answer:
    """Send bytes to a local port and return the response."""
    with connected(port) as connection:
        connection.sendall(request)
        return answer_of(connection)


def answer_of(connection: socket.socket) -> Answer:
    """Read one response."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def connected(port: int, *, source: str = "127.0.0.1") -> socket.socket:
    """Connect to a local port from a loopback address."""
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))


def rest_of(connection: socket.socket) -> bytes:
    """Return what is received until the peer closes or resets the connection."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def is_closed_within(connection: socket.socket, seconds: float) -> bool:
    """Tell whether the peer closes the connection in time; anything that it sends before is discarded."""
    connection.settimeout(seconds)
    try:
        rest_of(connection)
    except TimeoutError:
        return False
    return True


def begun_search(length: int = 10_000, path: str = "/akin/search") -> bytes:
    """Return the beginning of a search: the head and half of the image."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + bytes(length // 2)


@contextlib.contextmanager
def stalled(port: int, count: int, request: bytes, *, source: str = "127.0.0.1") -> Iterator[Sequence[socket.socket]]:
    """Hold open connections on which a request was begun and is not continued."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connected(port, source=source)) for _ in range(count)]
        for connection in connections:
            connection.sendall(request)
        yield connections


class BrokenServer:
    """A server that reads each request and closes the connection without a response, or never responds."""

    def __init__(self, *, is_silent: bool = False) -> None:
        self.requests: list[bytes] = []
        self._is_silent = is_silent
        self._listener = listen("127.0.0.1", 0)
        self.held: list[socket.socket] = []  # connections whose client waits for a response
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> "BrokenServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # close() alone does not wake a thread that waits in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self.held:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(60)
            self.requests.append(_whole_request(connection))
            if self._is_silent:
                self.held.append(connection)
            else:
                connection.close()


def _whole_request(connection: socket.socket) -> bytes:
    request = bytearray()
    while b"\r\n\r\n" not in request:
        request += _received(connection)
    head, _, body = bytes(request).partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += _received(connection)
    return head + b"\r\n\r\n" + body


def _received(connection: socket.socket) -> bytes:
    chunk = connection.recv(65536)
    assert chunk, "the request ended early"
    return chunk
