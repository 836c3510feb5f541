"""Listening sockets, and a server in a thread of this process."""

import asyncio
import contextlib
import socket
import threading

import httpx
import pytest

from service.installation.errors import PortInUse
from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import address_of, is_loopback, listen, running
from service.web.server import serve as serve_app
from tests.service.conftest import wait_for
from tests.service.fixtures.server_process import Connection


def test_names_a_port_in_use_and_the_remedy():
    with listen("127.0.0.1", 0) as taken, pytest.raises(PortInUse, match="choose another with --port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_names_an_address_of_another_machine():
    with pytest.raises(PortInUse, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_names_a_host_that_does_not_exist():
    with pytest.raises(PortInUse, match="cannot listen on no-such-host"):
        listen("no-such-host.invalid", 0)


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_knows_whether_other_machines_can_reach_it(host, expected):
    with listen(host, 0) as listener:
        assert is_loopback(listener) is expected


def test_responses_are_not_delayed_by_nagles_algorithm():
    """asyncio disables it only on sockets whose protocol is TCP."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_serves_until_the_block_ends(settings):
    with listen("127.0.0.1", 0) as listener:
        with running(create_app(settings), listener) as address:
            assert address == address_of(listener)
            assert httpx.get(f"{address}/livez").json() == {"status": "alive"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")


def test_a_request_that_outlasts_the_shutdown_gets_503(settings):
    app = create_app(settings.model_copy(update={"shutdown_seconds": 0.05}))
    is_running = threading.Event()

    async def endless():
        is_running.set()
        await asyncio.Event().wait()

    app.add_api_route("/endless", endless)
    with listen("127.0.0.1", 0) as listener, contextlib.closing(Connection(listener.getsockname()[1])) as line:
        with running(app, listener):
            line.send_head("/endless", method="GET")
            assert is_running.wait(20)
        response = line.response()

    assert response.problem_code == (503, "not-ready")
    assert (response.headers["connection"], response.headers["retry-after"]) == ("close", "1")


def test_a_request_in_progress_is_completed_during_the_shutdown(settings):
    app = create_app(settings)
    is_running, may_end = threading.Event(), threading.Event()

    def slow():
        is_running.set()
        return may_end.wait(20)

    app.add_api_route("/slow", slow)
    with listen("127.0.0.1", 0) as listener, contextlib.closing(Connection(listener.getsockname()[1])) as line:
        stopping = running(app, listener)
        stopping.__enter__()
        line.send_head("/slow", method="GET")
        assert is_running.wait(20)
        ending = threading.Thread(target=stopping.__exit__, args=(None, None, None))
        ending.start()
        wait_for(lambda: app.state.process_state.is_draining)
        may_end.set()
        response = line.response()
        ending.join()

    assert (response.status, response.body, response.headers["connection"]) == (200, b"true", "close")


def test_a_metrics_port_in_use_prevents_the_start(tmp_path):
    with listen("127.0.0.1", 0) as taken, listen("127.0.0.1", 0) as listener:
        port = taken.getsockname()[1]
        app = create_app(Settings(home=tmp_path / "home", metrics_port=port))
        with pytest.raises(PortInUse, match=f"port {port} of 127.0.0.1, for the metrics, is in use"):
            serve_app(app, listener)
