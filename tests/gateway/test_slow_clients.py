"""Clients that begin a request and do not continue it."""

import contextlib
import time

import pytest

from benchmarks.gateway import ask, upstream_file
from tests.gateway.conftest import MAX_SEARCHES, PREFIX
from tests.gateway.raw_http import BrokenServer, answer_of, begun_search, connected, is_closed_within, stalled
from tests.service.conftest import wait_for

# More than the slots of both servers.
COUNT = 2 * MAX_SEARCHES + 12


@pytest.fixture
def gateway(gateways):
    """A gateway that waits three seconds for the next part of a request."""
    return gateways(GATEWAY_BODY_TIMEOUT="3s")


def test_slow_clients_occupy_no_slot_and_are_cut_off(gateway, replicas, image):
    began = time.monotonic()
    with stalled(gateway.port, COUNT, begun_search()) as connections:
        answers = [
            ask("POST", f"{gateway.address}{PREFIX}/search", files={"image": image}, timeout=60) for _ in range(4)
        ]

        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(is_closed_within(connection, 60) for connection in connections)
    assert time.monotonic() - began > 2.9
    wait_for(lambda: len(gateway.lines()) == COUNT + 4)
    assert sorted(line["status"] for line in gateway.lines()) == [200] * 4 + [408] * COUNT
    assert {line["upstream"] for line in gateway.lines() if line["status"] == 408} == {""}


def test_a_trickling_search_reaches_a_server_only_when_it_is_complete(gateways, replicas, image):
    """nginx limits the pauses within a body, not its whole duration."""
    gateway = gateways(GATEWAY_BODY_TIMEOUT="4s")
    head = f"POST {PREFIX}/search HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n"
    with connected(gateway.port) as connection:
        connection.sendall(f"{head}X-Request-ID: trickling\r\nConnection: close\r\n\r\n".encode())
        for position in range(6):
            connection.sendall(image[position : position + 1])
            time.sleep(0.8)
            assert [replica.line_of("trickling") for replica in replicas] == [None, None]
        connection.sendall(image[6:])

        assert answer_of(connection).status == 200
    line = gateway.line_of("trickling")
    assert float(line["seconds"]) > 4
    assert float(line["upstream_seconds"]) < float(line["seconds"]) - 4


def test_a_disconnected_client_ends_the_connection_to_the_server(gateways):
    """The server then releases the slot of the search."""
    with BrokenServer(is_silent=True) as server:
        gateway = gateways(upstream_file([server.port]))
        search = f"POST {PREFIX}/search HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Request-ID: leaving\r\n\r\nabcd"
        with connected(gateway.port) as connection:
            connection.sendall(search.encode())
            wait_for(lambda: server.held)

        assert is_closed_within(server.held[0], 60)
    assert gateway.line_of("leaving")["status"] == 499


def test_the_time_limit_of_a_header_covers_the_whole_header(gateway):
    """A header that arrives byte by byte, without a long pause, is cut off too."""
    with connected(gateway.port) as connection:
        connection.sendall(f"GET {PREFIX}/livez HTTP/1.1\r\nHost: a\r\nX-Slow: ".encode())
        is_cut_off = False
        deadline = time.monotonic() + 60
        while not is_cut_off and time.monotonic() < deadline:
            is_cut_off = is_closed_within(connection, 0.1)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"a")

    assert is_cut_off
