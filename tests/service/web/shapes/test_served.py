"""Requests as real clients write them, byte by byte, that are answered."""

import base64
import gzip
import json
import zlib
from contextlib import closing

import pytest

from tests.service.conftest import wait_for
from tests.service.fixtures.server_process import Connection
from tests.service.web.shapes.requests import (
    FORM,
    FOUND,
    H2C,
    IMAGE,
    IMAGE_FIELD,
    MAX_IMAGE_BYTES,
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


def number(header, *, parameters=""):
    """Return a part with the field k."""
    return f'--x\r\nContent-Disposition: form-data; name="k"{parameters}\r\n{header}\r\n\r\n2\r\n'.encode()


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
    "a number with a type": form(NAMED, more=number("Content-Type: text/plain; charset=us-ascii")),
    "a number as a blob": form(NAMED, more=number("Content-Type: text/plain", parameters='; filename="blob"')),
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


def test_base64_whose_plus_became_a_space_is_restored(port):
    """Where the length shows it: the number of spaces is not a multiple of four."""
    texts = (base64.b64encode(IMAGE + ending).decode() for ending in (b"", b"\xfb\xef\xbe", b"\xff\xff\xfe"))
    text = next(text for text in texts if text.count("+") % 4)

    assert outcome(port, *image_text(text.replace("+", " "))) == FOUND


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
