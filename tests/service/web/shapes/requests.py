"""Requests as bytes, and what is compared of their responses."""

import base64
import json
from contextlib import closing

from tests.images import encode
from tests.service.conftest import product_image
from tests.service.fixtures.server_process import KEY, Connection

IMAGE = encode(product_image("birch"))
TEXT = base64.b64encode(IMAGE).decode()
MAX_IMAGE_BYTES = 300_000
ORIGIN = "https://shop.example.com"
FORM = "multipart/form-data; boundary=x"
FOUND = (200, "birch")
ADMIN = f"Authorization: Bearer {KEY}"
IMAGE_FIELD = 'Content-Disposition: form-data; name="image"'
NAMED = f'{IMAGE_FIELD}; filename="a.png"'
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


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


def get(port, path, *headers, method="GET"):
    return exchange(port, head_of(path, *headers, method=method))
