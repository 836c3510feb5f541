"""Request rates by address and by key, and requests in progress by address."""

import re

import httpx
import pytest

from benchmarks.gateway import ask, free_port, upstream_file
from tests.gateway.conftest import PREFIX
from tests.gateway.raw_http import begun_search, connected, rest_of, stalled

NO_REFILL = "1r/m"


def ask_from(gateway, path: str = "/v1/admin/releases", source: str = "127.0.0.1", **headers: str) -> httpx.Response:
    with httpx.Client(verify=False, transport=httpx.HTTPTransport(verify=False, local_address=source)) as client:
        return client.get(
            gateway.address + PREFIX + path, headers={name.replace("_", "-"): headers[name] for name in headers}
        )


def check_refusal(gateway, answer: httpx.Response) -> None:
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get_list("retry-after") == ["1"]
    problem = answer.json()
    assert (problem["code"], problem["status"]) == ("too-many-requests", 429)
    (request_id,) = answer.headers.get_list("x-request-id")
    assert problem["request_id"] == request_id
    line = gateway.line_of(request_id)
    assert (line["status"], line["upstream"]) == (429, "")


def test_an_address_above_its_rate_is_refused(gateways):
    gateway = gateways(GATEWAY_ADDRESS_RATE=NO_REFILL, GATEWAY_ADDRESS_BURST="2")

    answers = [ask_from(gateway) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    check_refusal(gateway, answers[-1])
    assert ask_from(gateway, source="127.0.0.7").status_code == 401


@pytest.mark.parametrize("path", ["/search", "/v1/search", "/admin/retrain", "/v1/admin/labels", "/v1/operations"])
def test_all_api_routes_share_the_rate_of_an_address(gateways, path):
    gateway = gateways(GATEWAY_ADDRESS_RATE=NO_REFILL, GATEWAY_ADDRESS_BURST="1")

    assert [ask_from(gateway).status_code for _ in range(2)] == [401, 401]
    check_refusal(gateway, ask_from(gateway, path))


def test_a_key_has_one_rate_for_all_addresses_and_headers(gateways):
    gateway = gateways(GATEWAY_KEY_RATE=NO_REFILL, GATEWAY_KEY_BURST="3")
    given = [
        ("127.0.0.8", {"Authorization": "Bearer akin_one"}),
        ("127.0.0.9", {"Authorization": "bearer  akin_one"}),
        ("127.0.0.8", {"X_API_Key": "akin_one"}),
        ("127.0.0.9", {"X_API_Key": "akin_one, akin_one"}),
    ]
    assert [ask_from(gateway, source=source, **headers).status_code for source, headers in given] == [401] * 4

    check_refusal(gateway, ask_from(gateway, source="127.0.0.10", Authorization="Bearer akin_one"))
    assert ask_from(gateway, source="127.0.0.8", Authorization="Bearer akin_two").status_code == 401


def test_requests_without_a_key_share_no_key_rate(gateways):
    """The same holds for other authorization schemes; both count only for their address."""
    gateway = gateways(GATEWAY_KEY_RATE=NO_REFILL, GATEWAY_KEY_BURST="1")

    statuses = [ask_from(gateway, **headers).status_code for headers in [{}, {"Authorization": "Basic YTpi"}] * 3]

    assert statuses == [401] * 6


def test_images_and_pages_have_a_separate_rate(gateways):
    gateway = gateways(
        GATEWAY_PAGE_RATE=NO_REFILL, GATEWAY_PAGE_BURST="1", GATEWAY_ADDRESS_RATE=NO_REFILL, GATEWAY_ADDRESS_BURST="1"
    )

    assert [ask_from(gateway, path).status_code for path in ("/", "/static/page.js")] == [200, 200]
    check_refusal(gateway, ask_from(gateway, "/livez"))
    assert ask_from(gateway).status_code == 401


def test_the_health_of_the_gateway_is_never_limited(gateways):
    gateway = gateways(GATEWAY_PAGE_RATE=NO_REFILL, GATEWAY_PAGE_BURST="1", GATEWAY_CONNECTIONS="1")

    with stalled(gateway.port, 1, begun_search()):
        answers = [ask("GET", f"{gateway.address}/gateway-health") for _ in range(3)]

    assert [answer.json() for answer in answers] == [{"status": "alive"}] * 3
    assert all(line["path"] != "/gateway-health" for line in gateway.lines())


def test_requests_in_progress_are_limited_by_address(gateways):
    gateway = gateways(GATEWAY_CONNECTIONS="3")

    with stalled(gateway.port, 3, begun_search(), source="127.0.0.6"):
        check_refusal(gateway, ask_from(gateway, source="127.0.0.6"))
        assert ask_from(gateway, source="127.0.0.7").status_code == 401


def test_the_default_rates_allow_a_burst(gateways):
    """A burst of 100 beyond the first request. The requests are pipelined, so the client's speed is irrelevant."""
    defaults = {f"GATEWAY_{name}_{what}": "" for name in ("ADDRESS", "KEY", "PAGE") for what in ("RATE", "BURST")}
    gateway = gateways(upstream_file([free_port()]), **defaults)
    request = f"GET {PREFIX}/v1/admin/none HTTP/1.1\r\nHost: a\r\n"
    with connected(gateway.port) as connection:
        connection.sendall(f"{request}\r\n".encode() * 900 + f"{request}Connection: close\r\n\r\n".encode())
        received = rest_of(connection)

    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)]
    assert len(statuses) == 901
    assert statuses[:101] == [502] * 101
    assert 429 in statuses
    assert set(statuses) == {502, 429}
