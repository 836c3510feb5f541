"""Requests that are refused, byte by byte, and the reason that each must get."""

import gzip
import json
import zlib
from typing import Any

import pytest

from tests.service.web.shapes.requests import (
    ADMIN,
    FORM,
    H2C,
    IMAGE,
    IMAGE_FIELD,
    NAMED,
    TEXT,
    as_json,
    chunked,
    form,
    head_of,
    image_text,
    outcome,
    raw,
)

BOMB = gzip.compress(bytes(50 * 2**20))
REFUSED: dict[str, tuple[Any, ...]] = {
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
        raw("Content-Encoding: gzip", body=gzip.compress(IMAGE) + b"more"),
        400, "invalid-content-coding", "after the end"),
    "damaged gzip": (
        raw("Content-Encoding: gzip", body=gzip.compress(IMAGE)[:-8] + bytes(8)),
        400, "invalid-content-coding", "not gzip"),
    "no bytes of gzip": (
        (chunked("Content-Encoding: gzip")[0], b"0\r\n\r\n"), 400, "invalid-content-coding", "truncated"),
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
        form(NAMED, "Content-Transfer-Encoding: base64", content=TEXT.encode()),
        422, "invalid-form", "base64", "'image'"),
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


def is_refused(found, status, code, *words):
    """Assert the status, the code and the words of a problem, which must not be those of a library."""
    assert found[:2] == (status, code)
    for word in words:
        assert word in found[2]
    for word in ("Expecting", "pydantic", "codec", "Traceback", "Input should", "Error -3"):
        assert word not in found[2]


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
    json_type = "Content-Type: application/json"

    def post(body, *headers, content_type=json_type, length=None):
        return head_of(path, ADMIN, content_type, f"Content-Length: {length or len(body)}", *headers), body

    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(MISREAD), MISREAD)
    sent = {
        "plain": post(MISREAD),
        "h2c": post(MISREAD, *H2C),
        "chunked": (head_of(path, ADMIN, json_type, "Transfer-Encoding: chunked"), chunks),
        "gzip": post(gzip.compress(MISREAD), "Content-Encoding: gzip"),
        "brotli": post(MISREAD, "Content-Encoding: br"),
        "as a form of curl": post(MISREAD, content_type="Content-Type: application/x-www-form-urlencoded"),
        "as text": post(MISREAD, content_type="Content-Type: text/plain"),
        "blanks": post(b"  \n"),
        "UTF-16": post("{ }".encode("utf-16-le")),
        "a sign": post(b"{ }", length="+3"),
    }

    statuses = {shape: outcome(port, *request)[0] for shape, request in sent.items()}

    expected = dict.fromkeys(sent, 422) | {"brotli": 415, "as a form of curl": 415, "as text": 415, "a sign": 400}
    assert statuses == expected
