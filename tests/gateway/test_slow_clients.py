"""Clients that begin a request and do not go on."""

import time

import pytest

from benchmarks.gateway import ask, upstream_file
from tests.gateway.conftest import MAX_SEARCHES, PREFIX
from tests.gateway.raw_http import BrokenServer, answer_of, begun_search, connected, is_closed_within, stalled
from tests.service.conftest import wait_for

# More than both servers have places for.
COUNT = 2 * MAX_SEARCHES + 12


@pytest.fixture
def gateway(gateways):
    """A gateway that waits a second for the next piece of a body."""
    return gateways(GATEWAY_BODY_TIMEOUT="1s")


def test_slow_clients_take_no_place_from_others_and_are_cut_off(gateway, replicas, image):
    began = time.monotonic()
    with stalled(gateway.port, COUNT, begun_search()) as connections:
        answers = [
            ask("POST", f"{gateway.address}{PREFIX}/search", files={"image": image}, timeout=20) for _ in range(4)
        ]

        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(is_closed_within(connection, 20) for connection in connections)
    assert 0.9 < time.monotonic() - began < 30
    cut_off = [line for line in gateway.lines() if line["status"] == 408]
    assert len(cut_off) == COUNT
    assert {line["upstream"] for line in cut_off} == {""}
    assert sum(line["status"] != 200 for line in gateway.lines()) == COUNT


def test_a_client_that_dribbles_reaches_a_server_only_when_it_is_done(gateways, replicas, image):
    """nginx counts pauses, not the whole: who sends a byte in time goes on, at the cost of a connection of its own."""
    gateway = gateways(GATEWAY_BODY_TIMEOUT="2s")
    head = f"POST {PREFIX}/search HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n"
    with connected(gateway.port) as connection:
        connection.sendall(f"{head}X-Request-ID: dribbling\r\nConnection: close\r\n\r\n".encode())
        for position in range(6):
            connection.sendall(image[position : position + 1])
            time.sleep(0.4)
            assert [replica.line_of("dribbling") for replica in replicas] == [None, None]
        connection.sendall(image[6:])

        assert answer_of(connection).status == 200
    line = gateway.line_of("dribbling")
    assert float(line["seconds"]) > 2.2
    assert float(line["upstream_seconds"]) < float(line["seconds"]) - 2


def test_a_client_that_leaves_is_not_searched_for_any_longer(gateways):
    """The server is told by the end of its connection, and gives the place to somebody else."""
    with BrokenServer(is_silent=True) as server:
        gateway = gateways(upstream_file([server.port]))
        search = f"POST {PREFIX}/search HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Request-ID: leaving\r\n\r\nabcd"
        with connected(gateway.port) as connection:
            connection.sendall(search.encode())
            wait_for(lambda: server.held)

        assert is_closed_within(server.held[0], 10)
    assert gateway.line_of("leaving")["status"] == 499


def test_a_header_has_its_time_in_all(gateway):
    """It may not be dribbled either."""
    began = time.monotonic()
    with connected(gateway.port) as connection:
        for character in f"GET {PREFIX}/livez HTTP/1.1\r\nHost: a\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":
            try:
                connection.sendall(character.encode())
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.1)
            if time.monotonic() - began > 5:
                break

        assert is_closed_within(connection, 0.5)
    assert time.monotonic() - began < 5
