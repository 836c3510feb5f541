"""Heads of requests without end, in size or in time."""

from contextlib import closing

import pytest

from service.installation.settings import Settings
from service.web import protocol as http_protocol
from service.web.app import create_app
from service.web.protocol import MAX_HEAD_BYTES, BoundedProtocol
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import Line

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


def counting(function, taken):
    """Note how many bytes a protocol is given at a time."""

    def count(self, data):
        taken.append(len(data))
        return function(self, data)

    return count


@pytest.mark.parametrize("kind", ENDLESS_HEADS)
def test_what_is_no_body_has_an_end_too(port, monkeypatch, kind):
    beginning, more = ENDLESS_HEADS[kind]
    taken: list[int] = []
    monkeypatch.setattr(BoundedProtocol, "data_received", counting(BoundedProtocol.data_received, taken))

    def send_for_ever(line):
        line.send(beginning)
        for _ in range(2000):
            line.send(more)

    with closing(Line(port)) as line, pytest.raises(ConnectionError):
        send_for_ever(line)

    # Beyond the bound only what had arrived with the last bytes before it.
    assert sum(taken) < MAX_HEAD_BYTES + 2 * max(taken)


def test_a_large_head_is_told_and_many_requests_in_one_connection_are_no_large_head(port):
    with closing(Line(port)) as line:
        line.send_head("/livez", method="GET", x="y" * (MAX_HEAD_BYTES // 2))
        assert line.answer().status == 200
        for _ in range(3):
            line.send_head("/livez", method="GET", x="y" * (MAX_HEAD_BYTES // 2))
            assert line.answer().status == 200
        line.send(b"GET /livez HTTP/1.1\r\nX-Y: ")
        line.send(b"z" * MAX_HEAD_BYTES)
        answer = line.answer()
        assert (answer.status, answer.body) == (400, b"The head of the request is larger than 65536 bytes.")


def test_many_small_chunks_are_no_large_head(port):
    with closing(Line(port)) as line:
        line.send_head("/search", transfer_encoding="chunked", content_type="image/png")
        line.send(b"".join(b"1\r\n%c\r\n" % byte for byte in IMAGE) + b"0\r\n\r\n")
        assert line.answer().status == 200


def test_a_head_that_does_not_arrive_is_given_up(served_home, monkeypatch):
    monkeypatch.setattr(http_protocol, "_HEAD_SECONDS", 0.3)
    with listen("127.0.0.1", 0) as listener, running(create_app(Settings(home=served_home)), listener):
        port = listener.getsockname()[1]
        with closing(Line(port)) as silent, closing(Line(port)) as slow, closing(Line(port)) as kept:
            for number in range(2):
                kept.send_head("/livez", method="GET")
                assert kept.answer().status == 200, number
            slow.send(b"GET /livez HTTP/1.1\r\nX: ")
            assert slow.is_closed_within(5)
            assert silent.is_closed_within(5)
            # Between two requests a connection may be silent for longer.
            kept.send_head("/livez", method="GET")
            assert kept.answer().status == 200
