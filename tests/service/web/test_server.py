import socket

import httpx
import pytest

from service.installation.errors import PortInUse
from service.web.app import create_app
from service.web.server import address_of, is_loopback, listen, running


def test_a_port_in_use_is_named_with_the_remedy():
    with listen("127.0.0.1", 0) as taken, pytest.raises(PortInUse, match="choose another with --port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_is_named():
    with pytest.raises(PortInUse, match=r"cannot listen on 192\.0\.2\.1"):
        listen("192.0.2.1", 0)


def test_a_host_that_does_not_exist_is_named(monkeypatch):
    with pytest.raises(PortInUse, match="cannot listen on no-such-host"):
        listen("no-such-host.invalid", 0)


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_knows_whether_other_machines_can_reach_it(host, expected):
    with listen(host, 0) as listener:
        assert is_loopback(listener) is expected


def test_answers_are_sent_at_once():
    """asyncio turns Nagle's algorithm off only for sockets that say they are TCP: else each answer waits 40 ms."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_serves_for_as_long_as_the_block_runs(settings):
    with listen("127.0.0.1", 0) as listener:
        with running(create_app(settings), listener) as address:
            assert address == address_of(listener)
            assert httpx.get(f"{address}/livez").json() == {"status": "alive"}
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")
