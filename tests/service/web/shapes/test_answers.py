"""Entity tags, HEAD, requests of other origins, and paths and methods that no route has."""

from contextlib import closing

import pytest
import structlog

from tests.service.fixtures.server_process import Connection
from tests.service.web.shapes.requests import ADMIN, MAX_IMAGE_BYTES, ORIGIN, exchange, get, head_of, raw

# --- conditional requests ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_path(port):
    return exchange(port, *raw()).json["hits"][0]["image_url"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ("*", 304),
        ('"a", {etag}', 304),
        ('"a,b" , W/"c",W/{etag}', 304),
        ('"a"\r\nIf-None-Match: {etag}', 304),
        ('"other"', 200),
        ('W/"other", "*"', 200),
        ("", 200),
    ],
)
@pytest.mark.parametrize("kind", ["image", "static"])
def test_if_none_match(port, image_path, kind, given, status):
    path = image_path if kind == "image" else "/static/page.js"
    etag = get(port, path).headers["etag"]

    response = get(port, path, f"If-None-Match: {given.format(etag=etag)}")

    assert response.status == status
    assert (response.body == b"") is (status == 304)
    assert response.headers["etag"] == etag


def test_head_is_answered_where_get_is(port, image_path):
    for path in (image_path, "/livez", "/openapi.json", "/v1/admin/keys", "/static/page.js", "/metrics"):
        with closing(Connection(port)) as line:
            for _ in range(2):  # content would be read as the next response
                line.send(head_of(path, ADMIN, method="HEAD"))
                response = line.response(method="HEAD")
                assert (response.status, response.body) == (200, b""), path


# --- other origins -------------------------------------------------------------------------------------------------


def preflight(port, origin=ORIGIN, method="POST", headers="authorization, x-api-key, content-type"):
    asked = (f"Access-Control-Request-Method: {method}", f"Access-Control-Request-Headers: {headers}")
    return get(port, "/search", f"Origin: {origin}", *asked, method="OPTIONS")


def test_a_preflight_is_answered(port):
    response = preflight(port)

    assert response.status == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "X-API-Key" in response.headers["access-control-allow-headers"]
    assert "x-request-id" in response.headers


@pytest.mark.parametrize("asked", [{"origin": "https://other.example"}, {"method": "TRACE"}, {"headers": "x-other"}])
def test_other_preflights_are_refused(port, asked):
    assert preflight(port, **asked).status == 400


def test_other_origins_are_not_permitted(port):
    for origin in ("https://other.example", f"{ORIGIN}.evil.example", ORIGIN.replace("https", "http"), "null"):
        response = get(port, "/livez", f"Origin: {origin}")
        assert response.status == 200
        assert "access-control-allow-origin" not in response.headers


def test_errors_can_be_read_by_the_origin_too(app, port, monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault")

    origin = f"Origin: {ORIGIN}"
    responses = {
        200: exchange(port, *raw(origin)),
        401: get(port, "/v1/admin/keys", origin),
        404: get(port, "/nowhere", origin),
        405: get(port, "/search", origin),
        413: exchange(port, *raw(origin, body=bytes(MAX_IMAGE_BYTES + 1))),
        422: exchange(port, *raw(origin, body=b"")),
    }
    with monkeypatch.context() as patch:
        patch.setattr(app.state.akin.admission, "limit", 0)
        responses[503] = exchange(port, *raw(origin))
    # structlog's default format would render all variables of the traceback, which takes long.
    with monkeypatch.context() as patch, structlog.testing.capture_logs():
        patch.setattr(app.state.akin.admission, "require_slot", fail)
        responses[500] = exchange(port, *raw(origin, body=b"x"))

    assert {status: response.status for status, response in responses.items()} == {
        status: status for status in responses
    }
    for response in responses.values():
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
        assert "Origin" in response.headers["vary"]


# --- paths and methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/search/", "/search?"),
        ("/v1/search/", "/v1/search?"),
        ("//search", "/search?"),
        ("/Search", "/search?"),
        ("/serach", "/search?"),
        ("/v1/livez", "/livez?"),
        ("/labels", "/v1/admin/labels?"),
        ("/v1/admin/releases/abc/", "/v1/admin/releases/{release_id}?"),
        ("/nothing/like/it", "/docs"),
        ("/static/none.js", "/docs"),
    ],
)
def test_a_path_without_a_route_names_the_route_that_may_be_meant(port, path, hint):
    response = get(port, path)

    assert response.problem_code == (404, "not-found")
    assert hint in response.json["detail"]


def test_a_wrong_method_is_told_all_methods_of_the_path(port):
    for path, methods in (("/search", "POST"), ("/v1/admin/keys", "GET, POST"), ("/livez", "GET, HEAD")):
        response = get(port, path, method="PUT")
        assert response.problem_code == (405, "method-not-allowed")
        assert response.headers["allow"] == methods
        assert methods in response.json["detail"]
