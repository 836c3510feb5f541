"""Connections are kept open, on both sides."""

import http.client

from benchmarks.gateway import ask, upstream_file
from tests.gateway.conftest import ADMIN, PREFIX
from tests.gateway.raw_http import BrokenServer
from tests.service.conftest import wait_for


def test_a_client_sends_all_requests_on_one_connection(gateway, image):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    try:
        connection.connect()
        socket_used = connection.sock
        for _ in range(5):
            connection.request("POST", f"{PREFIX}/search", image, {"Content-Type": "image/png"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
            # http.client reconnects where a response ends the connection.
            assert connection.sock is socket_used
    finally:
        connection.close()


def test_errors_keep_the_connection(gateway):
    """Both the servers' errors and the gateway's."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    try:
        connection.connect()
        socket_used = connection.sock
        for path in (f"{PREFIX}/nothing", "/outside", f"{PREFIX}/metrics", f"{PREFIX}/livez"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock is socket_used, path
    finally:
        connection.close()


def test_searches_share_connections_to_the_servers(gateway, replicas, image):
    """Each search comes from another client connection."""

    def search() -> None:
        assert ask("POST", f"{gateway.address}{PREFIX}/search", files={"image": image}).status_code == 200

    for _ in range(4):
        search()
    kept = [replica.peer_ports() for replica in replicas]
    for _ in range(30):
        search()

    for replica, ports in zip(replicas, kept, strict=True):
        assert ports
        assert replica.peer_ports() <= ports


def test_a_change_uses_a_connection_of_its_own(gateways, image):
    """On a kept connection that the server is closing, a change could be lost, and it must not be sent twice."""
    with BrokenServer() as server:
        gateway = gateways(upstream_file([server.port]))
        for path in ("/search", "/v1/admin/keys", "/v1/admin/labels", "/admin/retrain"):
            ask("POST", gateway.address + PREFIX + path, headers=ADMIN)

    assert [b"\r\nConnection: close\r\n" in request for request in server.requests] == [False, True, True, True]


def test_the_connection_of_a_change_is_closed_after_it(gateway, replicas):
    before = [replica.peer_ports() for replica in replicas]

    for number in range(4):
        answer = ask("DELETE", f"{gateway.address}{PREFIX}/v1/admin/catalogue/none-{number}", headers=ADMIN)
        assert answer.status_code == 404

    for replica, ports in zip(replicas, before, strict=True):
        wait_for(lambda replica=replica, ports=ports: replica.peer_ports() <= ports)
