"""Requests as real clients write them, byte by byte, and the answer that each must get.

All rows go to one server over a socket, so that the parser of HTTP is tested too.
"""

import base64
import gzip
import json
import zlib
from contextlib import closing

import pytest
from pydantic import SecretStr

from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import listen, running
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import KEY, Connection

IMAGE = encode(product_image("birch"))
TEXT = base64.b64encode(IMAGE).decode()
MAX_IMAGE_BYTES = 300_000
ORIGIN = "https://shop.example.com"
FORM = "multipart/form-data; boundary=x"
FOUND = (200, "birch")


@pytest.fixture(scope="module")
def app(served_home):
    settings = Settings(
        home=served_home,
        admin_key=SecretStr(KEY),
        max_image_bytes=MAX_IMAGE_BYTES,
        cors_origins=ORIGIN,
        max_searches=2,
        decode_workers=1,
        search_workers=1,
    )
    with listen("127.0.0.1", 0) as listener:
        created = create_app(settings)
        with running(created, listener):
            wait_for(lambda: created.state.akin.live.release_id)
            created.state.port = listener.getsockname()[1]
            # Starts the threads of the pools.
            assert outcome(created.state.port, *as_json(json.dumps({"image": TEXT}).encode())) == FOUND
            yield created


@pytest.fixture(scope="module")
def port(app):
    return app.state.port


def exchange(port, head, *parts):
    """Send a head and the parts of a body; return the response."""
    with closing(Connection(port)) as line:
        for content in (head, *parts):
            line.send(content)
        return line.response()


def outcome(port, head, *parts):
    """Return the status with the product found first, or with the code and detail of the problem."""
    response = exchange(port, head, *parts)
    if response.headers["content-type"] == "application/problem+json":
        return (*response.problem_code, response.json["detail"])
    return response.status, response.json["hits"][0]["product_id"] if "hits" in response.json else None


def head_of(path, *headers, method="POST"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def raw(*headers, body=IMAGE, content_type="image/png", length=None):
    """Return a search whose body is the image."""
    declared = f"Content-Length: {len(body) if length is None else length}"
    return head_of("/search", f"Content-Type: {content_type}", declared, *headers), body


def chunked(*headers, body=IMAGE):
    head = head_of("/search", "Content-Type: image/png", "Transfer-Encoding: chunked", *headers)
    return head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def as_json(body, *headers):
    return raw(*headers, body=body, content_type="application/json")


def image_text(text):
    return as_json(json.dumps({"image": text}).encode())


def form(*part_headers, content=IMAGE, before=b"", after=b"", more=b"", content_type=FORM, body_headers=()):
    """Return a search with a form of one part, which has these headers."""
    part = "\r\n".join(["--x", *part_headers, "", ""]).encode() + content + b"\r\n"
    return raw(*body_headers, body=before + part + more + b"--x--\r\n" + after, content_type=content_type)


def is_refused(found, status, code, *words):
    """Assert the status, the code and the words of a problem, which must not be those of a library."""
    assert found[:2] == (status, code)
    for word in words:
        assert word in found[2]
    for word in ("Expecting", "pydantic", "codec", "Traceback", "Input should", "Error -3"):
        assert word not in found[2]


IMAGE_FIELD = 'Content-Disposition: form-data; name="image"'
NAMED = f'{IMAGE_FIELD}; filename="a.png"'
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)

SERVED = {
    # --- upgrades and transfer coding
    "an upgrade to h2c": raw(*H2C),
    "an upgrade to h2c, chunked": chunked(*H2C),
    "an upgrade to websocket": raw("Connection: keep-alive, Upgrade", "Upgrade: websocket"),
    "an upgrade to something unknown": raw("Connection: upgrade", "Upgrade: TLS/1.0, IRC/6.9"),
    "Upgrade without Connection": raw("Upgrade: h2c"),
    "a length with spaces": raw(length=f"  {len(IMAGE)}  "),
    "a length twice": raw(f"Content-Length: {len(IMAGE)}"),
    "a chunked body": chunked(),
    "chunked in capitals": (chunked()[0].replace(b": chunked", b": Chunked"), chunked()[1]),
    # --- content coding
    "gzip": raw("Content-Encoding: gzip", body=gzip.compress(IMAGE)),
    "x-gzip in capitals": raw("Content-Encoding: X-GZIP", body=gzip.compress(IMAGE)),
    "gzip, chunked": chunked("Content-Encoding: gzip", body=gzip.compress(IMAGE)),
    "gzip of two members": raw("Content-Encoding: gzip", body=gzip.compress(IMAGE[:99]) + gzip.compress(IMAGE[99:])),
    "deflate": raw("Content-Encoding: deflate", body=zlib.compress(IMAGE)),
    "deflate without zlib's header": raw("Content-Encoding: deflate", body=zlib.compress(IMAGE, wbits=-15)),
    "identity": raw("Content-Encoding: identity"),
    "identity and gzip": raw("Content-Encoding: identity, gzip", body=gzip.compress(IMAGE)),
    "gzip of JSON": as_json(gzip.compress(json.dumps({"image": TEXT}).encode()), "Content-Encoding: gzip"),
    "gzip of a form": raw("Content-Encoding: gzip", body=gzip.compress(form(NAMED)[1]), content_type=FORM),
    "gzip of exactly the largest image": raw(
        "Content-Encoding: gzip", body=gzip.compress(IMAGE + bytes(MAX_IMAGE_BYTES - len(IMAGE)))
    ),
    # --- content types
    "octets": raw(content_type="application/octet-stream"),
    "a name of JSON": raw(body=json.dumps({"image": TEXT}).encode(), content_type="application/vnd.shop+json"),
    # --- parts of forms
    "filename* alone": form(f"{IMAGE_FIELD}; filename*=UTF-8''na%C3%AFve.png"),
    "no file name, a type": form(IMAGE_FIELD, "Content-Type: image/png"),
    "no file name, type octets": form(IMAGE_FIELD, "Content-Type: application/octet-stream"),
    "no file name and no type": form(IMAGE_FIELD),
    "no file name, type text": form(IMAGE_FIELD, "Content-Type: text/plain"),
    "an empty file name": form(f'{IMAGE_FIELD}; filename=""'),
    "a file name in Latin-1": raw(body=form(NAMED)[1].replace(b"a.png", "ü.png".encode("latin-1")), content_type=FORM),
    "headers in odd case": form(
        'CONTENT-disposition: Form-Data; NAME="image"; FileName="a"', "content-TYPE: IMAGE/PNG"
    ),
    "names without quotes": form("Content-Disposition: form-data; name=image; filename=a.png"),
    "a binary transfer encoding": form(NAMED, "Content-Transfer-Encoding: binary"),
    "a quoted boundary": form(NAMED, content_type='multipart/form-data; charset=utf-8; Boundary="x"'),
    "a preamble and an epilogue": form(NAMED, before=b"This is a form.\r\n\r\n", after=b"That was the form.\r\n"),
    "a line before the form": form(NAMED, before=b"\r\n"),
    "a number with a type": form(
        NAMED,
        more=b'--x\r\nContent-Disposition: form-data; name="k"\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n2\r\n',
    ),
    "a number as a blob": form(
        NAMED,
        more=b'--x\r\nContent-Disposition: form-data; name="k"; filename="blob"\r\nContent-Type: text/plain\r\n\r\n2\r\n',
    ),
    # --- JSON and base64
    "a byte order mark": as_json(b"\xef\xbb\xbf" + json.dumps({"image": TEXT}).encode()),
    "url-safe base64": image_text(TEXT.replace("+", "-").replace("/", "_")),
    "unpadded base64": image_text(TEXT.rstrip("=")),
    "base64 in lines": image_text("\r\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)) + "\r\n"),
    "indented base64": image_text("\n    ".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76))),
    "percent-encoded base64": image_text(TEXT.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")),
    "a data: URL": image_text(f"data:image/png;base64,{TEXT}"),
    "a data: URL in capitals with a parameter": image_text(f"DATA:image/png;charset=utf-8;BASE64,{TEXT}"),
}


@pytest.mark.parametrize("shape", SERVED)
def test_serves(port, shape):
    assert outcome(port, *SERVED[shape]) == FOUND


BOMB = gzip.compress(bytes(50 * 2**20))
REFUSED = {
    # --- lengths and transfer coding
    "a length with a sign": (raw(length=f"+{len(IMAGE)}"), 400, "invalid-http", "Content-Length"),
    "a negative length": (raw(length="-1"), 400, "invalid-http", "Content-Length"),
    "a length in hexadecimal": (raw(length="0x10"), 400, "invalid-http", "Content-Length"),
    "two lengths": (raw("Content-Length: 5"), 400, "invalid-http", "different values of Content-Length"),
    "a length and chunks": (chunked("Content-Length: 5"), 400, "invalid-framing", "both Content-Length and Transfer"),
    "another transfer coding": (raw("Transfer-Encoding: gzip"), 400, "invalid-http", "chunked"),
    "two transfer codings": (raw("Transfer-Encoding: gzip, chunked"), 400, "invalid-http", "chunked"),
    "a malformed chunk": (
        (chunked()[0], b"zz\r\nabc\r\n"), 400, "invalid-http", "chunk"),
    "a header without a colon": ((head_of("/search", "nonsense"),), 400, "invalid-http", "malformed"),
    "no body": (raw(body=b""), 422, "empty-body", "0 bytes"),
    # --- content coding
    "brotli": (raw("Content-Encoding: br"), 415, "unsupported-content-coding", "'br'", "gzip, deflate"),
    "zstd": (raw("Content-Encoding: zstd"), 415, "unsupported-content-coding", "'zstd'", "gzip, deflate"),
    "two codings": (raw("Content-Encoding: gzip, gzip"), 415, "unsupported-content-coding", "2 times"),
    "not gzip": (raw("Content-Encoding: gzip"), 400, "invalid-content-coding", "not gzip"),
    "not deflate": (raw("Content-Encoding: deflate"), 400, "invalid-content-coding", "not deflate"),
    "truncated gzip": (
        raw("Content-Encoding: gzip", body=gzip.compress(IMAGE)[:-9]), 400, "invalid-content-coding", "truncated"),
    "gzip with other bytes after it": (
        raw("Content-Encoding: gzip", body=gzip.compress(IMAGE) + b"more"), 400, "invalid-content-coding", "after the end"),
    "damaged gzip": (
        raw("Content-Encoding: gzip", body=gzip.compress(IMAGE)[:-8] + bytes(8)), 400, "invalid-content-coding", "not gzip"),
    "no bytes of gzip": (chunked("Content-Encoding: gzip", body=b"")[:1] + (b"0\r\n\r\n",), 400, "invalid-content-coding"),
    "a decompression bomb": (raw("Content-Encoding: gzip", body=BOMB), 413, "body-too-large", "300,000"),
    "a decompression bomb, deflate": (
        raw("Content-Encoding: deflate", body=zlib.compress(bytes(50 * 2**20))), 413, "body-too-large"),
    "a decompression bomb as a form": (
        raw("Content-Encoding: gzip", body=gzip.compress(form(NAMED, content=bytes(2**24))[1]), content_type=FORM),
        413, "body-too-large"),
    # --- content types
    "what curl -d sends": (
        raw(content_type="application/x-www-form-urlencoded"), 415, "unsupported-content-type", "application/json"),
    "text": (raw(content_type="text/plain"), 415, "unsupported-content-type", "multipart/form-data"),
    # --- parts of forms
    "a form in base64": (
        form(NAMED, "Content-Transfer-Encoding: base64", content=TEXT.encode()), 422, "invalid-form", "base64", "'image'"),
    "a compressed part": (form(NAMED, "Content-Encoding: gzip"), 422, "invalid-form", "gzip", "as they are"),
    "a path as text": (form(IMAGE_FIELD, content=b"photo.png"), 422, "invalid-form", "image=@FILE", "other clients"),
    "the image in another field": (
        form('Content-Disposition: form-data; name="photo"; filename="a"'), 422, "invalid-form", "'photo'", "'image'"),
    "the image in another field, by type": (
        form('Content-Disposition: form-data; name="file"', "Content-Type: image/png"),
        422, "invalid-form", "'file'", "belongs in the field 'image'"),
    "two images": (form(NAMED, more=form(NAMED)[1][:-7]), 422, "invalid-form", "'image' twice"),
    "lines that end with LF": (
        raw(body=form(NAMED)[1].replace(b"\r\n", b"\n"), content_type=FORM), 422, "invalid-form", "CR LF"),
    "another boundary": (form(NAMED, content_type="multipart/form-data; boundary=y"), 422, "invalid-form", "boundary"),
    "an empty file": (form(NAMED, content=b""), 422, "empty-body", "0 bytes"),
    # --- JSON and base64
    "UTF-16": (as_json(json.dumps({"image": TEXT}).encode("utf-16")), 422, "invalid-request", "UTF-16", "send UTF-8"),
    "UTF-16 without a mark": (as_json('{"image": 1}'.encode("utf-16-le")), 422, "invalid-request", "UTF-16"),
    "Latin-1": (as_json('{"image": "é"}'.encode("latin-1")), 422, "invalid-request", "not UTF-8"),
    "blanks": (as_json(b" \r\n "), 422, "invalid-request", "blank"),
    "half an object": (as_json(b'{"image": '), 422, "invalid-request", "not JSON", "line 1"),
    "a name twice": (as_json(b'{"image": "QUJD", "k": 1, "k": 2}'), 422, "invalid-request", "'k' twice"),
    "nested JSON": (as_json(b"[" * 100_000), 422, "invalid-request", "too deeply"),
    "a long number": (as_json(b'{"k": ' + b"1" * 5000 + b"}"), 422, "invalid-request", "digits"),
    "truncated base64": (image_text(TEXT[:41]), 422, "invalid-base64", "truncated"),
    "other characters": (image_text("QUJD*"), 422, "invalid-base64", "'*'"),
    "a data: URL of text": (image_text("data:image/png,abc"), 422, "invalid-base64", ";base64"),
    "spaces that may have been +": (image_text("QUJD QUJD QUJD QUJD QUJD"), 422, "invalid-base64", "%2B"),
}  # fmt: skip


@pytest.mark.parametrize("shape", REFUSED)
def test_refuses(port, shape):
    request, status, code, *words = REFUSED[shape]

    is_refused(outcome(port, *request), status, code, *words)


def test_base64_whose_plus_became_a_space_is_restored(port):
    """Where the length shows it: the number of spaces is not a multiple of four."""
    texts = (base64.b64encode(IMAGE + ending).decode() for ending in (b"", b"\xfb\xef\xbe", b"\xff\xff\xfe"))
    text = next(text for text in texts if text.count("+") % 4)

    assert outcome(port, *image_text(text.replace("+", " "))) == FOUND


ADMIN = f"Authorization: Bearer {KEY}"
MISREAD = b'{"preset": "nope", "activate": "nope", "scopes": "nope", "grace_seconds": "nope", "to": 3, "reason": 3}'
# Without a body, each of these would do something with default values.
WITH_DEFAULTS = (
    "/v1/admin/retrain",
    "/admin/retrain",
    "/v1/admin/releases",
    "/v1/admin/releases:rollback",
    "/v1/admin/keys/a:rotate",
)


@pytest.mark.parametrize("path", WITH_DEFAULTS)
def test_a_body_never_becomes_default_values(port, path):
    """The body is invalid, so every status but an error shows that it was not read."""
    length = f"Content-Length: {len(MISREAD)}"
    typed = "Content-Type: application/json"
    sent = {
        "plain": (head_of(path, ADMIN, typed, length), MISREAD),
        "h2c": (head_of(path, ADMIN, typed, length, *H2C), MISREAD),
        "chunked": (head_of(path, ADMIN, typed, "Transfer-Encoding: chunked"), b"%x\r\n%s\r\n0\r\n\r\n" % (len(MISREAD), MISREAD)),
        "gzip": (head_of(path, ADMIN, typed, "Content-Encoding: gzip", f"Content-Length: {len(gzip.compress(MISREAD))}"), gzip.compress(MISREAD)),
        "brotli": (head_of(path, ADMIN, typed, "Content-Encoding: br", length), MISREAD),
        "as a form of curl": (head_of(path, ADMIN, "Content-Type: application/x-www-form-urlencoded", length), MISREAD),
        "as text": (head_of(path, ADMIN, "Content-Type: text/plain", length), MISREAD),
        "blanks": (head_of(path, ADMIN, typed, "Content-Length: 3"), b"  \n"),
        "UTF-16": (head_of(path, ADMIN, typed, "Content-Length: 6"), "{ }".encode("utf-16-le")),
        "a sign": (head_of(path, ADMIN, typed, "Content-Length: +3"), b"{ }"),
    }  # fmt: skip

    statuses = {shape: outcome(port, *request)[0] for shape, request in sent.items()}

    expected = dict.fromkeys(sent, 422) | {"brotli": 415, "as a form of curl": 415, "as text": 415, "a sign": 400}
    assert statuses == expected


def test_a_body_that_comes_later_than_its_head_is_no_second_request(app, port):
    with closing(Connection(port)) as line:
        head, body = raw(*H2C)
        line.send(head)
        wait_for(lambda: app.state.akin.admission.arrivals.num_bodies == 1)
        line.send(body[:10])
        wait_for(lambda: app.state.akin.admission.arrivals.num_bytes == 10)
        line.send(body[10:])
        assert line.response().status == 200
        line.send(head_of("/livez", method="GET"))
        assert line.response().json == {"status": "alive"}


def test_a_client_that_waits_for_100_continue_is_answered(port):
    head, body = raw("Expect: 100-continue")
    with closing(Connection(port)) as line:
        line.send(head)
        assert line.interim_status() == 100
        line.send(body)
        assert line.response().status == 200


# --- conditional requests ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_path(port):
    return exchange(port, *raw()).json["hits"][0]["image_url"]


def get(port, path, *headers, method="GET"):
    return exchange(port, head_of(path, *headers, method=method))


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
        # Before the body is read: structlog's default format would render the image with the traceback.
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


# --- bodies that arrive slowly -------------------------------------------------------------------------------------


def test_slow_clients_do_not_stop_a_fast_search(app, port):
    """Ten times as many as there are slots."""
    wait_for(lambda: app.state.akin.admission.arrivals.num_bodies == 0)
    arrivals = app.state.akin.admission.arrivals
    head, body = raw()
    lines = [Connection(port) for _ in range(20)]
    try:
        for line in lines:
            line.send(head)
            line.send(body[:-1])
        wait_for(lambda: arrivals.num_bytes == 20 * (len(body) - 1))

        assert outcome(port, *raw()) == FOUND
        assert arrivals.num_bodies == 20
        for line in lines:
            line.send(body[-1:])
            assert line.response().status == 200
    finally:
        for line in lines:
            line.close()


def test_the_body_that_began_first_gives_way(app, port):
    """More bodies than may arrive at a time: 16 for each of two slots."""
    arrivals = app.state.akin.admission.arrivals
    head, body = raw()
    lines = []
    try:
        for number in range(32):
            lines.append(Connection(port))
            lines[-1].send(head)
            wait_for(lambda expected=number + 1: arrivals.num_bodies == expected)

        assert outcome(port, *raw()) == FOUND
        assert lines[0].response().problem_code == (503, "overloaded")
        assert arrivals.num_bodies == 31
    finally:
        for line in lines:
            line.close()
    wait_for(lambda: arrivals.num_bodies == 0)
    assert arrivals.num_bytes == 0
