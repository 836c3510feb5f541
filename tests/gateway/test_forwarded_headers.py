"""The client's address and scheme: set by the gateway, and ignored from any other source."""

import contextlib
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.gateway import Replica, upstream_file
from tests.gateway.conftest import PREFIX
from tests.gateway.raw_http import BrokenServer
from tests.service.conftest import wait_for

SPOOFED = {
    "X-Forwarded-For": "198.51.100.6, 127.0.0.1",
    "Forwarded": "for=198.51.100.6;proto=https;host=evil.example",
    "X-Real-IP": "198.51.100.6",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Port": "444",
}


@contextlib.contextmanager
def client_at(address: str, base_url: str) -> Iterator[httpx.Client]:
    """A client that connects from a loopback address."""
    with httpx.Client(base_url=base_url, transport=httpx.HTTPTransport(local_address=address, verify=False)) as client:
        yield client


def logged_client(replicas: tuple[Replica, Replica], request_id: str) -> object:
    """Return the client address in the log of the server that handled the request."""
    found: list[object] = []

    def look() -> bool:
        lines = [replica.line_of(request_id) for replica in replicas]
        found[:] = [line["client"] for line in lines if line]
        return bool(found)

    wait_for(look)
    assert len(found) == 1
    return found[0]


def test_the_server_logs_the_client_that_the_gateway_saw(gateway, replicas):
    with client_at("127.0.0.3", gateway.address + PREFIX) as client:
        answer = client.get("/version", headers={**SPOOFED, "X-Request-ID": "spoofing-client"})

    assert answer.status_code == 200
    assert logged_client(replicas, "spoofing-client") == "127.0.0.3"
    assert gateway.line_of("spoofing-client")["client"] == "127.0.0.3"


def test_the_headers_of_a_client_stop_at_the_gateway(gateways):
    """They are overwritten or removed, never appended to."""
    claims = {**SPOOFED, "X-Original-URL": "/evil", "Proxy": "evil", "Connection": "X-Forwarded-For", "TE": "trailers"}
    with BrokenServer() as server:
        gateway = gateways(upstream_file([server.port]))
        with client_at("127.0.0.3", gateway.address + PREFIX) as client:
            client.post("/v1/admin/keys", headers=claims)

    lines = server.requests[0].decode().split("\r\n\r\n")[0].split("\r\n")[1:]
    received = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert len(received) == len(lines)
    shown = {name: value for name, value in received.items() if "forwarded" in name or "real" in name}
    host = gateway.address.removeprefix("http://")
    assert shown == {
        "x-forwarded-for": "127.0.0.3",
        "x-forwarded-proto": "http",
        "x-forwarded-host": host,
        "x-real-ip": "127.0.0.3",
    }
    assert (received["host"], received["connection"]) == (host, "close")
    assert not {"x-original-url", "proxy", "te"} & set(received)


def test_a_spoofed_prefix_or_host_changes_no_url_in_a_response(gateway, image):
    with client_at("127.0.0.3", gateway.address + PREFIX) as client:
        answer = client.post("/search", files={"image": image}, headers=SPOOFED)
        page = client.get("/", headers=SPOOFED)

    assert answer.json()["hits"][0]["image_url"].startswith(f"{PREFIX}/media/")
    assert "evil" not in page.text


def test_a_client_that_bypasses_the_gateway_is_not_trusted(replicas):
    """The servers trust 127.0.0.1, the gateway's address, and no other loopback address."""
    with client_at("127.0.0.2", replicas[0].address) as client:
        answer = client.get("/version", headers={**SPOOFED, "X-Request-ID": "around-the-gateway"})
        redirect = client.get("/docs/", headers=SPOOFED)

    assert answer.status_code == 200
    assert logged_client(replicas, "around-the-gateway") == "127.0.0.2"
    assert (redirect.status_code, "location" in redirect.headers) == (404, False)


def test_the_gateway_is_trusted(replicas):
    """The counterpart of the previous test, which would also pass if no address were trusted."""
    headers = {"X-Forwarded-For": "198.51.100.6", "X-Request-ID": "from-the-gateway"}

    with client_at("127.0.0.1", replicas[0].address) as client:
        client.get("/version", headers=headers)

    assert logged_client(replicas, "from-the-gateway") == "198.51.100.6"


@pytest.mark.parametrize(
    ("source", "forwarded", "expected"),
    [
        ("127.0.0.4", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.4", "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.5", "198.51.100.7", "127.0.0.5"),
    ],
    ids=["trusted proxy", "trusted proxy, spoofing client", "other address"],
)
def test_only_a_configured_proxy_before_the_gateway_is_trusted(gateways, replicas, source, forwarded, expected):
    gateway = gateways(GATEWAY_TRUSTED_PROXY="127.0.0.4")
    request_id = f"behind-{source}-{len(forwarded)}"

    with client_at(source, gateway.address + PREFIX) as client:
        client.get("/version", headers={"X-Forwarded-For": forwarded, "X-Request-ID": request_id})

    assert logged_client(replicas, request_id) == expected
    assert gateway.line_of(request_id)["client"] == expected
