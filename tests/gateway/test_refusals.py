"""Requests that the gateway passes on unchanged or refuses, and secrets that no log contains."""

import gzip

import pytest

from benchmarks.gateway import KEY, ask, free_port, upstream_file
from tests.gateway.conftest import ADMIN, PREFIX
from tests.gateway.raw_http import exchange

SECRET = f"akin_{'0123456789abcdef' * 3}"[:48]  # as long as a real key


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing-key"),
        ({"Authorization": f"Bearer {SECRET}"}, 401, "invalid-key"),
        ({"X-API-Key": SECRET}, 401, "invalid-key"),
        ({"X-API-Key": SECRET, **ADMIN}, 401, "invalid-key"),
        ({"X-API-Key": KEY}, 200, None),
        (ADMIN, 200, None),
    ],
    ids=["none", "wrong", "wrong, the other header", "two", "right", "right, the other header"],
)
def test_keys_and_the_responses_to_them_pass_unchanged(client, replicas, headers, status, code):
    through = client.get("/v1/admin/releases", headers=headers)
    direct = ask("GET", f"{replicas[0].address}/v1/admin/releases", headers=headers)

    assert (through.status_code, through.json().get("code")) == (status, code)
    assert direct.status_code == status
    assert through.headers.get("www-authenticate") == direct.headers.get("www-authenticate")
    if code:
        assert {**through.json(), "request_id": None} == {**direct.json(), "request_id": None}


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (f"/search?api_key={SECRET}", "/search"),
        (f"/v1/search?k={SECRET}", "/v1/search"),
        (f"/v1/admin/keys/{SECRET}?token=x", ""),
        (f"/v1/admin/keys/{SECRET.replace('_', '%5F')}", ""),
        (f"/x%3D{SECRET.replace('akin_', '%61kin%255f')}", ""),
    ],
)
def test_a_key_in_the_url_is_refused_and_not_logged(client, gateway, replicas, image, path, logged):
    answer = client.post(path, files={"image": image}, headers=ADMIN)

    assert answer.is_client_error
    assert SECRET not in answer.text
    assert gateway.line_of(answer.headers["x-request-id"])["path"] == (PREFIX + logged if logged else "(with a key)")
    for log in (gateway.log, *(replica.log for replica in replicas)):
        assert SECRET[5:] not in log.read_text()
    if logged:
        assert (answer.status_code, answer.json()["code"]) == (400, "key-in-address")


def test_a_key_of_any_form_is_not_logged_where_the_path_has_the_name_of_a_key(client, gateway, replicas):
    answer = client.get(f"/v1/admin/keys/{KEY}", headers=ADMIN)

    assert (answer.status_code, answer.json()["code"]) == (400, "key-in-address")
    assert gateway.line_of(answer.headers["x-request-id"])["path"] == "(with a key)"
    for log in (gateway.log, *(replica.log for replica in replicas)):
        assert KEY not in log.read_text()


def test_errors_of_the_gateway_log_no_query_string(gateways):
    """nginx's own error lines would repeat it: body too large, rate exceeded, no server."""
    limits = {"GATEWAY_SEARCH_BYTES": "10", "GATEWAY_KEY_RATE": "1r/m", "GATEWAY_KEY_BURST": "1"}
    gateway = gateways(upstream_file([free_port()]), **limits)
    address = f"{gateway.address}{PREFIX}/search?api_key={SECRET}"

    statuses = [ask("POST", address, content=b"a" * 11).status_code]
    statuses += [ask("POST", address, content=b"a", headers={"X-API-Key": SECRET}).status_code for _ in range(3)]

    assert statuses == [413, 502, 502, 429]
    assert SECRET not in gateway.log.read_text()


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "/%6Detrics", "//metrics", "/a/../metrics", "/./metrics", "/metrics?a=1"]
)
def test_metrics_are_not_reachable_through_the_gateway(gateway, path):
    request = f"GET {PREFIX}{path} HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nConnection: close\r\n\r\n"

    answer = exchange(gateway.port, request.encode())

    assert (answer.status, answer.code) == (404, "not-found")
    assert gateway.line_of(answer.headers["x-request-id"])["upstream"] == ""


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"NONSENSE\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/livez HTTP/1.1\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/media/%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/livez HTTP/3.7\r\nHost: a\r\n\r\n", 505, "http-version-not-supported"),
        (b"TRACE /akin/livez HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method-not-allowed"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad-request"),
        (b"GET /akin/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri-too-long"),
        (
            b"GET /akin/livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n",
            431,
            "request-header-fields-too-large",
        ),
        (b"POST /akin/search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not-implemented"),
        (
            b"POST /akin/search HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            400,
            "bad-request",
        ),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_a_malformed_request_gets_a_problem_document(gateway, request_bytes, status, code):
    answer = exchange(gateway.port, request_bytes)

    assert (answer.status, answer.code) == (status, code)
    assert gateway.line_of(answer.headers["x-request-id"])["upstream"] == ""


def test_the_gateway_is_no_forward_proxy(gateway):
    """Versions of nginx refuse CONNECT with different statuses."""
    answer = exchange(gateway.port, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (answer.status, answer.code) in [(400, "bad-request"), (405, "method-not-allowed")]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /akin/livez HTTP/1.0\r\n\r\n",
        b"GET http://other.example/akin/livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /akin/livez HTTP/1.1\r\nHost: a\r\nConnection: close, X-API-Key\r\nTE: trailers\r\nUpgrade: x\r\n\r\n",
    ],
    ids=["HTTP/1.0 without a host", "absolute address", "hop-by-hop headers"],
)
def test_unusual_but_valid_requests_are_served(gateway, request_bytes):
    answer = exchange(gateway.port, request_bytes)

    assert (answer.status, answer.body) == (200, b'{"status":"alive"}')


def test_head_has_no_body(client, image):
    address = client.post("/search", files={"image": image}).json()["hits"][0]["image_url"]
    for path in ("/livez", "/", address.removeprefix(PREFIX)):
        got, head = client.get(path, headers={"Accept-Encoding": "identity"}), client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/metrics").content == b""


def test_pages_and_json_are_compressed_and_images_are_not(client, image):
    results = client.post("/search", files={"image": image})
    accepts_gzip = {"Accept-Encoding": "gzip"}
    with client.stream("GET", "/openapi.json", headers=accepts_gzip) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert gzip.decompress(b"".join(answer.iter_raw())).startswith(b"{")
    shown = client.get(results.json()["hits"][0]["image_url"].removeprefix(PREFIX), headers=accepts_gzip)
    assert "content-encoding" not in shown.headers


def test_security_headers_are_added_where_a_server_sets_none(client, image):
    address = client.post("/search", files={"image": image}).json()["hits"][0]["image_url"].removeprefix(PREFIX)

    for path in ("/livez", "/metrics", "/nothing", address, "/"):
        answer = client.get(path)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert len(answer.headers.get_list("referrer-policy")) == 1
        assert len(answer.headers.get_list("content-security-policy")) <= 1
        assert answer.headers["server"] == "nginx"
    assert "sandbox" in client.get(address).headers["content-security-policy"]
