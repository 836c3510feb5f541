"""Connections are kept, on both sides."""

import http.client

from benchmarks.gateway import ask, upstream_file
from tests.gateway.conftest import ADMIN, PREFIX
from tests.gateway.raw_http import BrokenServer
from tests.service.conftest import wait_for


def test_a_client_asks_again_and_again_on_one_connection(gateway, image):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        connection.connect()
        socket_used = connection.sock
        for _ in range(5):
            connection.request("POST", f"{PREFIX}/search", image, {"Content-Type": "image/png"})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()
            # http.client connects anew where the answer says that the connection ends.
            assert connection.sock is socket_used
    finally:
        connection.close()


def test_errors_end_no_connection(gateway):
    """The servers' own and the gateway's: a client that is told to wait should not connect again for that."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
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
    """Of whichever clients they are."""

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


def test_a_change_has_a_connection_of_its_own(gateways, image):
    """On a kept one it could be lost half-way to a server that closes it, and must not be sent twice."""
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
