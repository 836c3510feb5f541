"""The log has one line per request, and the client addresses that trusted proxies report."""

import io
import json
from contextlib import contextmanager

import httpx
import pytest
from fastapi.testclient import TestClient

from service.installation.logs import configure_logging
from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for

KEY = "k7Qz-wrench-4815-plum"
HEADERS = {"Authorization": f"Bearer {KEY}"}
IMAGE = encode(product_image("birch"))


@pytest.fixture
def log(monkeypatch):
    """The log as written without a terminal; an autouse fixture restores the configuration of logging."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging("debug")
    return stream


def written(log):
    """Return the log without the lines of the tests' own client."""
    return "".join(line for line in log.getvalue().splitlines(True) if json.loads(line)["logger"] != "httpx2")


def lines(log, event="request"):
    """Return the lines of an event, parsed as JSON."""
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in found if line["event"] == event]


@pytest.fixture
def served(served_home, log):
    """A client of the served shop, with an empty log."""
    settings = Settings(home=served_home, release_poll_seconds=0.05, admin_key=KEY)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        log.truncate(0)
        log.seek(0)
        yield client


def test_a_request_is_one_line_with_all_its_fields(served, log):
    response = served.post("/v1/search?k=2", files={"image": IMAGE}, headers={"X-Request-ID": "gateway-7.a_B"})

    (line,) = lines(log)
    assert line.pop("timestamp").endswith("Z")
    assert line.pop("milliseconds") > 0
    assert line.pop("bytes_in") == int(response.request.headers["content-length"])
    assert line == {
        "event": "request", "level": "info", "logger": "service.web.middleware.request_log",
        "request_id": "gateway-7.a_B", "method": "POST", "route": "/v1/search", "path": "/v1/search", "status": 200,
        "client": "testclient", "actor": None, "bytes_out": len(response.content),
    }  # fmt: skip
    assert response.headers["x-request-id"] == "gateway-7.a_B"


def test_unsafe_request_ids_are_replaced(served, log):
    for given in ("", "a b", "x" * 65, "né", 'a"}', "a/b", "akin;id"):
        response = served.get("/version", headers={"X-Request-ID": given.encode()})

        generated = response.headers["x-request-id"]
        assert len(generated) == 32
        assert lines(log)[-1]["request_id"] == generated


def test_the_name_of_the_key_is_logged_but_not_the_key(served, log):
    made = served.post("/v1/admin/keys", json={"name": "log-test", "scopes": ["search"]}, headers=HEADERS).json()["key"]
    served.get("/v1/operations", headers={"X-API-Key": made})
    served.get("/v1/operations", headers={"X-API-Key": "akin_" + 43 * "z"})
    served.get(f"/v1/operations/{made}", headers=HEADERS)
    served.get(f"/version?api_key={made}")

    actors = [(line["actor"], line["status"]) for line in lines(log)]
    assert actors[0][0] == "admin"
    assert ("log-test", 403) in actors
    assert "log-test" in written(log)
    for secret in (made, KEY, 43 * "z"):
        assert secret not in written(log)


def test_the_query_is_not_logged_and_long_paths_are_truncated(served, log):
    served.get("/version?customer=jane.doe")
    served.get("/" + 5000 * "a")

    first, second = lines(log)
    assert first["path"] == "/version"
    assert len(second["path"]) == 500
    assert "jane.doe" not in written(log)


def test_successful_health_checks_and_scrapes_are_logged_at_debug_level(served, log):
    for path in ("/livez", "/readyz", "/metrics"):
        served.get(path, headers=HEADERS)
    served.get("/metrics")

    assert [(line["path"], line["status"], line["level"]) for line in lines(log)] == [
        ("/livez", 200, "debug"), ("/readyz", 200, "debug"), ("/metrics", 200, "debug"), ("/metrics", 401, "info"),
    ]  # fmt: skip


def test_an_unexpected_error_is_logged_with_its_traceback_but_no_variables(served, log, monkeypatch):
    async def break_down(*arguments):
        secret_image = b"its-bytes"
        raise RuntimeError(f"broken by {len(secret_image)} bytes")

    monkeypatch.setattr("service.serving.engine.SearchEngine.search", break_down)
    response = served.post("/search", files={"image": IMAGE})

    assert (response.status_code, response.json()["code"]) == (500, "internal-error")
    (failed,) = lines(log, "request_failed")
    assert failed["request_id"] == response.headers["x-request-id"]
    assert failed["exception"][0]["exc_type"] == "RuntimeError"
    assert "its-bytes" not in written(log)
    assert [line["status"] for line in lines(log)] == [500]


SPOOFED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Port": "444",
    "X-Real-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https;host=evil.example",
}


@contextmanager
def reached_over_a_socket(home, **changes):
    """Serve over a socket until the block ends; yields a client that connects from 127.0.0.1."""
    settings = Settings(home=home, release_poll_seconds=0.05, admin_key=KEY, **changes)
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        wait_for(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        with httpx.Client(base_url=address) as client:
            yield client


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24,2001:db8::1"])
def test_forwarded_headers_are_ignored_unless_the_proxy_is_trusted(served_home, log, trusted):
    """By default, uvicorn would trust 127.0.0.1."""
    with reached_over_a_socket(served_home, trusted_proxies=trusted) as client:
        search = client.post("/search", files={"image": IMAGE}, headers=SPOOFED)
        others = [client.get(path, headers=SPOOFED) for path in ("/", "/version/", "/docs", "/openapi.json")]

    assert {line["client"] for line in lines(log)} == {"127.0.0.1"}
    assert search.json()["hits"][0]["image_url"].startswith("/media/")
    for response in (search, *others):
        assert "evil" not in response.text + str(response.headers)
        assert "https://" not in response.headers.get("location", "")


def test_the_client_address_comes_from_a_trusted_proxy(served_home, log):
    expected = {
        "203.0.113.9": "203.0.113.9",
        "198.51.100.1, 203.0.113.8": "203.0.113.8",  # the client wrote the first
        "198.51.100.1, 203.0.113.7, 127.0.0.1": "203.0.113.7",  # the last is a gateway too
        "2001:db8::7": "2001:db8::7",
    }

    with reached_over_a_socket(served_home, trusted_proxies="127.0.0.0/8") as client:
        responses = [
            client.post("/search", files={"image": IMAGE}, headers={**SPOOFED, "X-Forwarded-For": given})
            for given in expected
        ]

    assert [line["client"] for line in lines(log) if line["path"] == "/search"] == list(expected.values())
    for response in responses:
        assert response.status_code == 200
        # Of the other headers, only the scheme is used.
        assert "evil" not in response.text + str(response.headers)
