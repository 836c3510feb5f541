"""The log: one line for each request, and whose word is taken for where a request comes from."""

import io
import json
import logging
from contextlib import contextmanager

import httpx
import pytest
import structlog
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
    """What is logged off a terminal, line by line; the state of the logging is put back after the test."""
    root = logging.getLogger()
    handlers, level, configuration = root.handlers, root.level, structlog.get_config()
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging("debug")
    yield stream
    structlog.configure(**configuration)
    root.handlers, root.level = handlers, level


def written(log):
    """Return what the server wrote: the client of the tests logs as well."""
    return "".join(line for line in log.getvalue().splitlines(True) if json.loads(line)["logger"] != "httpx2")


def lines(log, event="request"):
    """Return the lines of an event; each line of the log is a JSON object."""
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in found if line["event"] == event]


@pytest.fixture
def served(served_home, log):
    """A client of the served shop, and its settings changed as a test wants."""
    settings = Settings(home=served_home, release_poll_seconds=0.05, admin_key=KEY)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        log.truncate(0)
        log.seek(0)
        yield client


def test_a_request_is_one_line_with_all_that_is_asked_later(served, log):
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


def test_a_request_id_that_could_write_into_the_log_is_replaced(served, log):
    for given in ("", "a b", "x" * 65, "né", 'a"}', "a/b", "akin;id"):
        response = served.get("/version", headers={"X-Request-ID": given.encode()})

        made = response.headers["x-request-id"]
        assert len(made) == 32
        assert lines(log)[-1]["request_id"] == made


def test_the_name_of_the_key_is_logged_and_never_the_key(served, log):
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


def test_the_query_is_not_logged_and_a_long_path_is_cut(served, log):
    served.get("/version?customer=jane.doe")
    served.get("/" + 5000 * "a")

    first, second = lines(log)
    assert first["path"] == "/version"
    assert len(second["path"]) == 500
    assert "jane.doe" not in written(log)


def test_health_checks_and_scrapes_that_succeed_are_for_debugging(served, log):
    for path in ("/livez", "/readyz", "/metrics"):
        served.get(path, headers=HEADERS)
    served.get("/metrics")

    assert [(line["path"], line["status"], line["level"]) for line in lines(log)] == [
        ("/livez", 200, "debug"), ("/readyz", 200, "debug"), ("/metrics", 200, "debug"), ("/metrics", 401, "info"),
    ]  # fmt: skip


def test_an_unexpected_error_has_its_traceback_in_the_log_and_no_values(served, log, monkeypatch):
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
    """Serve for real for as long as the block runs; gives a client whose connections come from 127.0.0.1."""
    settings = Settings(home=home, release_poll_seconds=0.05, admin_key=KEY, **changes)
    with listen("127.0.0.1", 0) as listener, running(create_app(settings), listener) as address:
        wait_for(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        with httpx.Client(base_url=address) as client:
            yield client


@pytest.mark.parametrize("trusted", ["", "192.0.2.0/24,2001:db8::1"])
def test_nobody_but_a_trusted_proxy_is_believed(served_home, log, trusted):
    """Not even this machine: uvicorn by itself would believe 127.0.0.1."""
    with reached_over_a_socket(served_home, trusted_proxies=trusted) as client:
        search = client.post("/search", files={"image": IMAGE}, headers=SPOOFED)
        others = [client.get(path, headers=SPOOFED) for path in ("/", "/version/", "/docs", "/openapi.json")]

    assert {line["client"] for line in lines(log)} == {"127.0.0.1"}
    assert search.json()["hits"][0]["image_url"].startswith("/media/")
    for answer in (search, *others):
        assert "evil" not in answer.text + str(answer.headers)
        assert "https://" not in answer.headers.get("location", "")


def test_the_address_that_a_trusted_proxy_tells_is_believed(served_home, log):
    told = {
        "203.0.113.9": "203.0.113.9",
        "198.51.100.1, 203.0.113.8": "203.0.113.8",  # the client wrote the first
        "198.51.100.1, 203.0.113.7, 127.0.0.1": "203.0.113.7",  # the last is a gateway as well
        "2001:db8::7": "2001:db8::7",
    }

    with reached_over_a_socket(served_home, trusted_proxies="127.0.0.0/8") as client:
        answers = [
            client.post("/search", files={"image": IMAGE}, headers={**SPOOFED, "X-Forwarded-For": given})
            for given in told
        ]

    assert [line["client"] for line in lines(log) if line["path"] == "/search"] == list(told.values())
    for answer in answers:
        assert answer.status_code == 200
        # Nothing else of what it sends is taken, but the scheme.
        assert "evil" not in answer.text + str(answer.headers)
