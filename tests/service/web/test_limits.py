"""Limits of a real server process, seen from outside: status, code and memory.

All tests share one `akin serve` with small limits, and use plain sockets, which can violate the protocol.
"""

import base64
import threading
from contextlib import ExitStack

import pytest

from tests.embedding.test_decoding import png_header
from tests.images import encode
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import KEY, serving

MIB = 2**20
IMAGE = encode(product_image("birch"))
MAX_IMAGE_BYTES = 2 * MIB
MAX_UPLOAD_BYTES = 8 * MIB
MAX_SEARCHES = 5  # the number of endless searches below
BODY_SECONDS = 2.0
MAX_WAIT_SECONDS = 60.0
BEARER = {"authorization": f"Bearer {KEY}"}
BOUNDARY = "border"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server(served_home, tmp_path_factory):
    """A server with small limits, whose log must contain no unexpected error at the end."""
    log = tmp_path_factory.mktemp("limits") / "log"
    limits = {
        "AKIN_MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES),
        "AKIN_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
        "AKIN_MAX_SEARCHES": str(MAX_SEARCHES),
        "AKIN_BODY_TIMEOUT_SECONDS": str(BODY_SECONDS),
    }
    with serving(served_home, log, **limits) as process:
        assert process.request("/search", IMAGE, content_type="image/png").status == 200
        yield process
    for unexpected in ("Traceback", "never retrieved", "request_failed"):
        assert unexpected not in log.read_text()


def part(name, content, filename=None, headers=""):
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n{headers}\r\n'
    return head.encode() + content + b"\r\n"


def call_concurrently(function, arguments):
    """Call a function with each of these arguments, each in a thread of its own."""
    threads = [threading.Thread(target=function, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


END = f"--{BOUNDARY}--\r\n".encode()


# --- a gigabyte declared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "key", "expected"),
    [
        ("/search", None, (413, "body-too-large")),
        ("/v1/search", "wrong", (401, "invalid-key")),
        ("/v1/admin/labels", None, (401, "missing-key")),
        ("/v1/admin/labels", "wrong", (401, "invalid-key")),
        ("/v1/admin/labels", KEY, (413, "body-too-large")),
        ("/v1/admin/catalogue", "wrong", (401, "invalid-key")),
        ("/v1/admin/retrain", "wrong", (401, "invalid-key")),
        ("/v1/admin/retrain", KEY, (413, "body-too-large")),
        ("/v1/admin/releases:rollback", "wrong", (401, "invalid-key")),
        ("/v1/admin/releases:rollback", KEY, (413, "body-too-large")),
        ("/nowhere", None, (404, "not-found")),
    ],
)
def test_a_declared_gigabyte_is_rejected_before_any_of_it_is_sent(server, path, key, expected):
    headers = {"authorization": f"Bearer {key}"} if key else {}

    with server.connect() as line:
        line.send_head(path, content_length=str(2**30), content_type="application/json", **headers)
        response = line.response()

        assert response.problem_code == expected
        assert response.headers["connection"] == "close"


def test_the_response_reaches_a_client_that_keeps_sending(server):
    """The server closes the connection some time after the response, which an immediate reset would discard."""
    with server.connect() as line:
        line.send_head("/search", content_length=str(2**30), content_type="image/png")
        for _ in range(64):
            line.send(bytes(MIB // 2))
        assert line.response().problem_code == (413, "body-too-large")
        assert line.is_closed_within(MAX_WAIT_SECONDS)


def test_the_connection_is_kept_if_little_of_the_body_is_left(server):
    with server.connect() as line:
        for _ in range(2):
            line.send_head("/v1/admin/labels", content_length="50000", content_type="application/json")
            assert line.response().problem_code == (401, "missing-key")
            line.send(bytes(50_000))


# --- bodies without end --------------------------------------------------------------------------------------------

ENDLESS = {
    "search, raw": ("/search", "image/png", b""),
    "search, JSON": ("/search", "application/json", b'{"image": "'),
    "search, form": ("/search", FORM, part("image", b"", "a.png")[:-2]),
    "search, text of a form": ("/search", FORM, part("k", b"")[:-2]),
    "search, before a form": ("/search", FORM, b""),
    "labels, JSON": ("/v1/admin/labels", "application/json", b'{"labels": ['),
    "labels, table": ("/v1/admin/labels", "text/csv", b"image_id,label\n"),
    "catalogue, zip": ("/v1/admin/catalogue", "application/zip", b"PK"),
    "retrain, form": ("/v1/admin/retrain", FORM, part("archive", b"", "a.zip")[:-2]),
    "retrain, JSON": ("/v1/admin/retrain", "application/json", b"{"),
    "rollback, JSON": ("/v1/admin/releases:rollback", "application/json", b"{"),
    "page without a body": ("/nowhere", "text/plain", b""),
}
# These are rejected for their content rather than their size.
ENDS_OTHERWISE = {
    "search, text of a form": (422, "invalid-form"),
    "search, before a form": (422, "invalid-form"),
    "page without a body": (404, "not-found"),
}


def test_endless_chunked_bodies_are_rejected_in_bounded_memory(server):
    """All at once; the bound is what these requests may hold in memory, plus 64 MiB for everything else."""
    outcomes: dict[str, object] = {}

    def send_endlessly(name):
        path, content_type, beginning = ENDLESS[name]
        with server.connect() as line:
            line.send_head(path, transfer_encoding="chunked", content_type=content_type, **BEARER)
            try:
                if beginning:
                    line.send_chunk(beginning)
                for _ in range(10_000):
                    line.send_chunk(b"A" * 65_536)
                outcomes[name] = "never rejected"
            except OSError:
                outcomes[name] = line.response().problem_code

    before = server.reset_peak()
    call_concurrently(send_endlessly, [(name,) for name in ENDLESS])

    expected = {name: ENDS_OTHERWISE.get(name, (413, "body-too-large")) for name in ENDLESS}
    assert outcomes == expected
    in_memory = MAX_SEARCHES * 2 * MAX_IMAGE_BYTES + 8 * MIB  # the searches, and labels as JSON
    assert server.peak_bytes() - before < in_memory + 64 * MIB


# --- forms ---------------------------------------------------------------------------------------------------------

FORMS = {
    "a thousand texts": b"".join(part("k", b"1") for _ in range(1000)) + END,
    "a thousand unknown texts": b"".join(part(f"x{n}", b"1") for n in range(1000)) + END,
    "a thousand files": b"".join(part("image", IMAGE[:500], "a.png") for _ in range(1000)) + END,
    "a thousand headers": part("image", IMAGE, "a.png", "".join(f"X-{n}: y\r\n" for n in range(1000))) + END,
    "a long header": part("image", IMAGE, "a.png", f"X: {'y' * 1_000_000}\r\n") + END,
    "a long name": part("n" * 1_000_000, b"1") + END,
    "a long text": part("k", b"1" * 1_000_000) + END,
    "a part without a name": f"--{BOUNDARY}\r\nX: y\r\n\r\nabc\r\n".encode() + END,
    "no end": part("image", IMAGE, "a.png"),
}


@pytest.mark.parametrize("path", ["/search", "/v1/admin/labels", "/v1/admin/retrain"])
def test_hostile_forms_are_rejected_in_bounded_memory(server, path):
    before = server.reset_peak()

    outcomes = {
        name: server.request(path, body, content_type=FORM, **BEARER).problem_code for name, body in FORMS.items()
    }

    assert outcomes == dict.fromkeys(FORMS, (422, "invalid-form"))
    assert server.peak_bytes() - before < 32 * MIB


def test_unsupported_content_types_are_rejected_with_the_supported_ones(server):
    for path in ("/search", "/v1/admin/labels", "/v1/admin/catalogue", "/v1/admin/retrain"):
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/pdf"):
            response = server.request(path, IMAGE, content_type=content_type, **BEARER)
            assert response.problem_code == (415, "unsupported-content-type")
            assert "application/json" in response.json["detail"] or "application/zip" in response.json["detail"]


def test_a_small_file_of_a_huge_image_is_rejected(server):
    before = server.reset_peak()

    response = server.request("/search", png_header(50_000, 50_000), content_type="image/png")

    assert response.problem_code == (413, "image-too-large")
    assert server.peak_bytes() - before < 16 * MIB


# --- slow bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/search", "/v1/admin/releases:rollback"])
def test_a_body_that_does_not_arrive_is_given_up(server, path):
    """A body that the route reads, and one that the framework reads."""
    with server.connect() as line:
        line.send_head(path, content_length="100", content_type="application/json", **BEARER)
        line.send(b"{")

        assert line.response().problem_code == (408, "body-too-slow")
        assert line.is_closed_within(MAX_WAIT_SECONDS)


# --- too many searches ---------------------------------------------------------------------------------------------


def gauge(server, name):
    metrics = server.get("/metrics", **BEARER).body.decode()
    (line,) = (line for line in metrics.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def in_progress(server):
    return gauge(server, "akin_searches_in_progress")


def wait_until_arriving(server, number):
    wait_for(lambda: gauge(server, "akin_search_bodies_arriving") == number, seconds=MAX_WAIT_SECONDS)


def begin_search(server, stack):
    """Send a search except for its last byte."""
    line = stack.enter_context(server.connect())
    line.send_head("/search", content_length=str(len(IMAGE)), content_type="image/png")
    line.send(IMAGE[:-1])
    return line


def test_bodies_that_arrive_slowly_hold_no_slots(server):
    """Twice as many as there are slots; a complete search is answered meanwhile, and then they are."""
    with ExitStack() as stack:
        lines = [begin_search(server, stack) for _ in range(2 * MAX_SEARCHES)]
        wait_until_arriving(server, len(lines))

        assert server.request("/search", IMAGE, content_type="image/png").status == 200
        assert in_progress(server) == 0
        for line in lines:
            line.send(IMAGE[-1:])
            assert line.response().status == 200


def test_disconnected_clients_release_their_bodies(server):
    num_left = len([line for line in server.events("request") if line["status"] == 499])

    with ExitStack() as stack:
        for _ in range(MAX_SEARCHES):
            begin_search(server, stack)
        wait_until_arriving(server, MAX_SEARCHES)
        stack.close()
        wait_until_arriving(server, 0)

    assert server.request("/search", IMAGE, content_type="image/png").status == 200
    left = [line for line in server.events("request") if line["status"] == 499]
    assert len(left) - num_left == MAX_SEARCHES


def test_memory_is_bounded_by_the_slots_for_searches(server):
    """40 clients with 2 MiB each, as JSON, which needs the most; each slot may need six times its image."""
    content = b'{"image": "' + base64.b64encode(IMAGE + bytes(MAX_IMAGE_BYTES - len(IMAGE))) + b'"}'
    statuses = []

    def search():
        try:
            statuses.append(server.request("/search", content, content_type="application/json").status)
        except (TimeoutError, ConnectionError):
            statuses.append(None)

    before = server.reset_peak()
    call_concurrently(search, [()] * 40)

    # All bodies arrive at the same time: on a busy machine some take longer than the limit of two seconds.
    assert {200, 503} <= set(statuses) <= {200, 408, 503}
    assert server.peak_bytes() - before < MAX_SEARCHES * 6 * MAX_IMAGE_BYTES + 32 * MIB
