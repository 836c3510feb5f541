"""Bodies of searches that arrive slowly."""

from tests.service.conftest import wait_for
from tests.service.fixtures.server_process import Connection
from tests.service.web.shapes.requests import FOUND, outcome, raw


def test_slow_clients_do_not_stop_a_fast_search(app, port):
    """Ten times as many as there are slots."""
    arrivals = app.state.akin.admission.arrivals
    wait_for(lambda: arrivals.num_bodies == 0)
    head, body = raw()
    lines = [Connection(port) for _ in range(20)]
    try:
        for line in lines:
            line.send(head)
            line.send(body[:1000])
        wait_for(lambda: arrivals.num_bytes == 20 * 1000)

        assert outcome(port, *raw()) == FOUND
        assert arrivals.num_bodies == 20
        for line in lines:
            line.send(body[1000:])
            assert line.response().status == 200
    finally:
        for line in lines:
            line.close()


def test_the_body_that_began_first_gives_way(app, port):
    """More bodies than may arrive at a time: 16 for each of two slots."""
    arrivals = app.state.akin.admission.arrivals
    head, _ = raw()
    lines: list[Connection] = []
    try:
        for number in range(32):
            lines.append(Connection(port))
            lines[-1].send(head)
            wait_for(lambda expected=number + 1: arrivals.num_bodies == expected)

        assert outcome(port, *raw()) == FOUND
        assert lines[0].response().problem_code == (503, "overloaded")
        assert arrivals.num_bodies == 31
    finally:
        for line in lines:
            line.close()
    wait_for(lambda: arrivals.num_bodies == 0)
    assert arrivals.num_bytes == 0
