"""Bodies at a limit and one byte above it, for the limits of the servers and of the gateway."""

import base64
import io
import zipfile
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.gateway import KEY, Gateway, ask, gateway_before, upstream_file
from tests.gateway.conftest import ADMIN, MAX_IMAGE_BYTES, MAX_UPLOAD_BYTES, PREFIX
from tests.gateway.raw_http import exchange

PNG = {"Content-Type": "image/png"}
ZIP = {**ADMIN, "Content-Type": "application/zip"}
GATEWAY_SEARCH_BYTES = 150_000
GATEWAY_UPLOAD_BYTES = 250_000


@pytest.fixture(scope="module")
def images(image) -> dict[int, bytes]:
    """The image, padded to several sizes with bytes after its end."""
    sizes = [limit + more for limit in (MAX_IMAGE_BYTES, GATEWAY_SEARCH_BYTES) for more in (0, 1)]
    return {size: image + bytes(size - len(image)) for size in sizes}


def archive(image: bytes, size: int) -> bytes:
    """Return a zip archive of one product with exactly this many bytes."""

    def packed(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
            zipped.writestr("fir/front.png", image)
            zipped.writestr("fir/side.png", content)
        return buffer.getvalue()

    return packed(image + bytes(size - len(packed(image))))


def form(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    request = httpx.Request("POST", "http://a", files={name: content})
    return request.read(), {"Content-Type": request.headers["content-type"]}


def refused_by(gateway: Gateway, answer: httpx.Response) -> str:
    """Check the problem document of a body that is too large; return who refused the body."""
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "body-too-large"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    line = gateway.line_of(answer.headers["x-request-id"])
    assert line["upstream_status"] in ("", "413")
    return "server" if line["upstream"] else "gateway"


def test_an_image_at_the_limit_of_the_servers_is_searched(client, images):
    answer = client.post("/search", content=images[MAX_IMAGE_BYTES], headers=PNG)

    assert answer.status_code == 200, answer.text
    assert answer.json()["hits"][0]["product_id"] == "amber"


def test_an_image_one_byte_above_the_limit_is_refused_by_the_server(client, gateway, images):
    answer = client.post("/search", content=images[MAX_IMAGE_BYTES + 1], headers=PNG)

    assert refused_by(gateway, answer) == "server"


@pytest.mark.parametrize("kind", ["form", "json"])
def test_an_image_at_the_limit_is_accepted_in_every_encoding(client, images, kind):
    image = images[MAX_IMAGE_BYTES]
    if kind == "form":
        answer = client.post("/search", files={"image": image})
    else:
        answer = client.post("/v1/search", json={"image": base64.b64encode(image).decode()})

    assert answer.status_code == 200, answer.text


def test_the_default_limit_of_the_gateway_accepts_the_largest_image_as_json(client, gateway):
    """A server accepts 10 MiB by default, here as base64 in JSON. The servers of this test accept less."""
    largest = 4 * (10 * 2**20 // 3 + 1) + 64 * 1024

    answer = client.post("/search", content=bytes(largest), headers={"Content-Type": "application/json"})

    assert refused_by(gateway, answer) == "server"


def test_an_archive_at_the_limit_of_the_servers_is_read(client, image):
    content = archive(image, MAX_UPLOAD_BYTES)
    assert len(content) == MAX_UPLOAD_BYTES

    answer = client.post("/v1/admin/catalogue", params={"dry_run": True}, content=content, headers=ZIP)

    assert answer.status_code == 202, answer.text


def test_an_archive_one_byte_above_the_limit_is_refused_by_the_server(client, gateway, image):
    content = archive(image, MAX_UPLOAD_BYTES + 1)

    answer = client.post("/v1/admin/catalogue", params={"dry_run": True}, content=content, headers=ZIP)

    assert refused_by(gateway, answer) == "server"


@pytest.fixture(scope="module")
def narrow(replicas) -> Iterator[Gateway]:
    """A gateway with lower limits than its servers."""
    limits = {"GATEWAY_SEARCH_BYTES": str(GATEWAY_SEARCH_BYTES), "GATEWAY_UPLOAD_BYTES": str(GATEWAY_UPLOAD_BYTES)}
    with gateway_before(upstream_file([one.port for one in replicas]), AKIN_ROOT_PATH=PREFIX, **limits) as running:
        yield running


def test_the_limit_of_the_gateway_is_exact_for_searches(narrow, images):
    with httpx.Client(verify=False, base_url=narrow.address + PREFIX, headers=PNG) as client:
        at_limit = client.post("/search", content=images[GATEWAY_SEARCH_BYTES])
        over = client.post("/search", content=images[GATEWAY_SEARCH_BYTES + 1])

    assert at_limit.status_code == 200, at_limit.text
    assert refused_by(narrow, over) == "gateway"


@pytest.mark.parametrize("path", ["/v1/admin/catalogue", "/v1/imports"])
def test_the_limit_of_the_gateway_is_exact_for_uploads(narrow, image, path):
    with httpx.Client(verify=False, base_url=narrow.address + PREFIX, headers=ZIP, params={"dry_run": True}) as client:
        at_limit = client.post(path, content=archive(image, GATEWAY_UPLOAD_BYTES))
        over = client.post(path, content=archive(image, GATEWAY_UPLOAD_BYTES + 1))

    assert at_limit.status_code == 202, at_limit.text
    assert refused_by(narrow, over) == "gateway"


@pytest.mark.parametrize(
    ("path", "headers", "limit"),
    [("/search", PNG, GATEWAY_SEARCH_BYTES), ("/v1/admin/catalogue?dry_run=true", ZIP, GATEWAY_UPLOAD_BYTES)],
    ids=["search", "upload"],
)
def test_a_chunked_body_is_counted_while_it_arrives(narrow, image, path, headers, limit):
    def chunks() -> Iterator[bytes]:
        for _ in range(limit // 10_000 + 1):
            yield bytes(10_000)

    answer = ask("POST", narrow.address + PREFIX + path, content=chunks(), headers=headers)

    assert answer.status_code == 413
    assert answer.json()["code"] == "body-too-large"


def test_a_gigabyte_is_refused_before_it_is_sent(gateway):
    head = f"POST {PREFIX}/search HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 1000000000\r\n"

    answer = exchange(gateway.port, f"{head}Connection: close\r\n\r\n".encode())

    assert (answer.status, answer.code) == (413, "body-too-large")


def test_other_admin_routes_have_the_small_limit(client, gateway):
    answer = client.post("/v1/admin/releases", content=bytes(2**20 + 1), headers=ADMIN)

    assert refused_by(gateway, answer) == "gateway"


def test_an_upload_with_a_wrong_key_is_refused_before_its_body_has_arrived(gateway):
    """The gateway streams uploads, so a client learns of a wrong key before it has sent gigabytes."""
    head = (
        f"POST {PREFIX}/v1/admin/catalogue HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}x\r\n"
        f"Content-Type: application/zip\r\nContent-Length: {MAX_UPLOAD_BYTES}\r\nConnection: close\r\n\r\n"
    )

    answer = exchange(gateway.port, head.encode() + bytes(1000))

    assert (answer.status, answer.code) == (401, "invalid-key")
