"""Limits on the head of a request, on chunk sizes and on trailers."""

from contextlib import closing

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.installation.settings import Settings
from service.web.app import create_app
from service.web.http_protocol import MAX_HEAD_BYTES
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import Connection

IMAGE = encode(product_image("birch"))


@pytest.fixture(scope="module")
def port(served_home):
    with listen("127.0.0.1", 0) as listener:
        app = create_app(Settings(home=served_home))
        with running(app, listener):
            wait_for(lambda: app.state.akin.live.release_id)
            yield listener.getsockname()[1]


CHUNKED = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS_HEADS = {
    "headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X-Y: z\r\n" * 4096),
    "one header": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Y: ", b"z" * 32_768),
    "path": (b"GET /", b"z" * 32_768),
    "size of a chunk": (CHUNKED + b"1;", b"z" * 32_768),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Y: z\r\n" * 4096),
}


def counting(function, received):
    """Wrap `data_received` to record the number of bytes of each call."""

    def count(self, data):
        received.append(len(data))
        return function(self, data)

    return count


@pytest.mark.parametrize("kind", ENDLESS_HEADS)
def test_an_endless_head_ends_the_connection(port, monkeypatch, kind):
    beginning, more = ENDLESS_HEADS[kind]
    received: list[int] = []
    monkeypatch.setattr(H11Protocol, "data_received", counting(H11Protocol.data_received, received))

    def send_without_end(line):
        line.send(beginning)
        for _ in range(2000):
            line.send(more)

    with closing(Connection(port)) as line, pytest.raises(ConnectionError):
        send_without_end(line)

    # The read that crosses the limit may exceed it.
    assert sum(received) < MAX_HEAD_BYTES + 2 * max(received)


def test_a_head_over_the_limit_is_rejected_and_the_limit_is_per_request(port):
    with closing(Connection(port)) as line:
        line.send_head("/livez", method="GET", x="y" * (MAX_HEAD_BYTES // 2))
        assert line.response().status == 200
        for _ in range(3):
            line.send_head("/livez", method="GET", x="y" * (MAX_HEAD_BYTES // 2))
            assert line.response().status == 200
        line.send(b"GET /livez HTTP/1.1\r\nX-Y: ")
        line.send(b"z" * MAX_HEAD_BYTES)
        assert line.response().status == 400


def test_many_small_chunks_are_not_limited_as_a_head(port):
    with closing(Connection(port)) as line:
        line.send_head("/search", transfer_encoding="chunked", content_type="image/png")
        line.send(b"".join(b"1\r\n%c\r\n" % byte for byte in IMAGE) + b"0\r\n\r\n")
        assert line.response().status == 200
