"""What a server takes, looked at from outside: status, stable code, memory, and how soon it says so.

One real `akin serve` for all, with small limits; connections are plain sockets, so that they can break any rule.
"""

import base64
import threading
import time
from contextlib import ExitStack

import pytest

from tests.embedding.test_decoding import png_header
from tests.images import encode
from tests.service.conftest import product_image
from tests.service.fixtures.server_process import KEY, serving

MIB = 2**20
IMAGE = encode(product_image("birch"))
MAX_IMAGE_BYTES = 2 * MIB
MAX_UPLOAD_BYTES = 8 * MIB
MAX_SEARCHES = 5  # as many as there are endless ones below
BODY_SECONDS = 2.0
BEARER = {"authorization": f"Bearer {KEY}"}
BOUNDARY = "border"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def server(served_home, tmp_path_factory):
    """A server with small limits; nothing unexpected may stand in its log at the end."""
    log = tmp_path_factory.mktemp("limits") / "log"
    limits = {
        "AKIN_MAX_IMAGE_BYTES": str(MAX_IMAGE_BYTES),
        "AKIN_MAX_UPLOAD_BYTES": str(MAX_UPLOAD_BYTES),
        "AKIN_MAX_SEARCHES": str(MAX_SEARCHES),
        "AKIN_BODY_TIMEOUT_SECONDS": str(BODY_SECONDS),
    }
    with serving(served_home, log, **limits) as process:
        assert process.ask("/search", IMAGE, content_type="image/png").status == 200
        yield process
    for unexpected in ("Traceback", "never retrieved", "request_failed"):
        assert unexpected not in log.read_text()


def part(name, content, filename=None, headers=""):
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n{headers}\r\n'
    return head.encode() + content + b"\r\n"


def at_once(function, arguments):
    """Call a function with all of these arguments, each in a thread."""
    threads = [threading.Thread(target=function, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


END = f"--{BOUNDARY}--\r\n".encode()


# --- a gigabyte declared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "key", "told"),
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
def test_a_gigabyte_that_is_declared_is_answered_before_a_byte_of_it_is_sent(server, path, key, told):
    headers = {"authorization": f"Bearer {key}"} if key else {}

    with server.line() as line:
        line.send_head(path, content_length=str(2**30), content_type="application/json", **headers)
        answer = line.answer()

        assert answer.told == told
        assert answer.headers["connection"] == "close"


def test_the_answer_reaches_a_client_that_goes_on_to_send(server):
    """The connection is closed only a while after the answer: else it would be lost with what is on the way."""
    with server.line() as line:
        line.send_head("/search", content_length=str(2**30), content_type="image/png")
        for _ in range(64):
            line.send(bytes(MIB // 2))
        assert line.answer().told == (413, "body-too-large")
        assert line.is_closed_within(5)


def test_the_connection_is_kept_where_little_is_left_of_the_body(server):
    with server.line() as line:
        for _ in range(2):
            line.send_head("/v1/admin/labels", content_length="50000", content_type="application/json")
            assert line.answer().told == (401, "missing-key")
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
# Unlike the others, these end with what is in them and not with how much.
ENDS_OTHERWISE = {
    "search, text of a form": (422, "invalid-form"),
    "search, before a form": (422, "invalid-form"),
    "page without a body": (404, "not-found"),
}


def test_chunked_bodies_without_end_are_cut_off_and_cost_no_memory(server):
    """All at once; the bound is what they may hold in memory, with 64 MiB for all that a process does besides."""
    answers: dict[str, object] = {}

    def send_for_ever(name):
        path, content_type, beginning = ENDLESS[name]
        with server.line() as line:
            line.send_head(path, transfer_encoding="chunked", content_type=content_type, **BEARER)
            try:
                if beginning:
                    line.send_chunk(beginning)
                for _ in range(10_000):
                    line.send_chunk(b"A" * 65_536)
                answers[name] = "never cut off"
            except OSError:
                answers[name] = line.answer().told

    before = server.forget_peak()
    at_once(send_for_ever, [(name,) for name in ENDLESS])

    expected = {name: ENDS_OTHERWISE.get(name, (413, "body-too-large")) for name in ENDLESS}
    assert answers == expected
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
def test_forms_that_only_do_harm_are_refused_and_cost_no_memory(server, path):
    before = server.forget_peak()

    told = {name: server.ask(path, body, content_type=FORM, **BEARER).told for name, body in FORMS.items()}

    assert told == dict.fromkeys(FORMS, (422, "invalid-form"))
    assert server.peak_bytes() - before < 32 * MIB


def test_content_types_that_are_not_read_are_told_what_is(server):
    for path in ("/search", "/v1/admin/labels", "/v1/admin/catalogue", "/v1/admin/retrain"):
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/pdf"):
            answer = server.ask(path, IMAGE, content_type=content_type, **BEARER)
            assert answer.told == (415, "unsupported-content-type")
            assert "application/json" in answer.json["detail"] or "application/zip" in answer.json["detail"]


def test_a_small_file_that_would_decode_to_a_huge_image_is_refused(server):
    before = server.forget_peak()

    answer = server.ask("/search", png_header(50_000, 50_000), content_type="image/png")

    assert answer.told == (413, "image-too-large")
    assert server.peak_bytes() - before < 16 * MIB


# --- slow bodies ---------------------------------------------------------------------------------------------------


def trickle(line, content, seconds):
    """Send a byte every now and then for some time; return how many."""
    until = time.monotonic() + seconds
    num_sent = 0
    while num_sent < len(content) and time.monotonic() < until:
        line.send(content[num_sent : num_sent + 1])
        num_sent += 1
        time.sleep(BODY_SECONDS / 10)
    return num_sent


def test_a_small_body_that_takes_too_long_is_given_up(server):
    """Silent, or with a byte now and then; for a search and for a body that the framework reads."""
    told = []

    def send_slowly(path, is_silent):
        with server.line() as line:
            line.send_head(path, content_length="100", content_type="application/json", **BEARER)
            if not is_silent:
                trickle(line, b"{" * 100, 1.2 * BODY_SECONDS)
            told.append((*line.answer().told, line.is_closed_within(5)))

    cases = [(path, is_silent) for path in ("/search", "/v1/admin/releases:rollback") for is_silent in (True, False)]
    at_once(send_slowly, cases)

    assert told == [(408, "body-too-slow", True)] * len(cases)


def test_an_upload_may_take_its_time_but_not_pause(server):
    table = b"image_id,label\nnone,kettle\n"

    with server.line() as line:
        line.send_head("/v1/admin/labels", content_length=str(len(table)), content_type="text/csv", **BEARER)
        num_sent = trickle(line, table, 1.2 * BODY_SECONDS)
        line.send(table[num_sent:])
        assert line.answer().told == (422, "invalid-labels")  # read whole: there is no such image
    with server.line() as line:
        line.send_head("/v1/admin/labels", content_length=str(len(table)), content_type="text/csv", **BEARER)
        line.send(table[:20])
        assert line.answer().told == (408, "body-too-slow")
        assert line.is_closed_within(5)


# --- too many searches ---------------------------------------------------------------------------------------------


def in_progress(server):
    answer = server.get("/metrics", **BEARER).body.decode()
    (line,) = (line for line in answer.splitlines() if line.startswith("akin_searches_in_progress "))
    return float(line.split()[1])


def wait_until_in_progress(server, number):
    until = time.monotonic() + 20
    while in_progress(server) != number:
        assert time.monotonic() < until
        time.sleep(0.01)


def begin_search(server, stack):
    """Send all of a search but its last byte."""
    line = stack.enter_context(server.line())
    line.send_head("/search", content_length=str(len(IMAGE)), content_type="image/png")
    line.send(IMAGE[:-1])
    return line


def seconds_of(ask, times=15):
    """Return the middle one of several times that something takes."""
    seconds = []
    for _ in range(times):
        start = time.monotonic()
        ask()
        seconds.append(time.monotonic() - start)
    return sorted(seconds)[times // 2]


def test_past_the_bound_the_answer_is_a_quick_503_and_the_rest_goes_on(server):
    search_seconds = seconds_of(lambda: server.ask("/search", IMAGE, content_type="image/png"))
    refused = []

    def ask_once_more():
        # Nothing of the body is sent: the answer does not wait for it.
        with server.line() as line:
            line.send_head("/search", content_length=str(len(IMAGE)), content_type="image/png")
            refused.append(line.answer())

    with ExitStack() as stack:
        lines = [begin_search(server, stack) for _ in range(MAX_SEARCHES)]
        wait_until_in_progress(server, MAX_SEARCHES)
        refusal_seconds = seconds_of(ask_once_more)
        assert server.get("/readyz").status == 200
        # The places go on to their ends.
        for line in lines:
            line.send(IMAGE[-1:])
        assert [line.answer().status for line in lines] == [200] * MAX_SEARCHES

    assert {answer.told for answer in refused} == {(503, "overloaded")}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert refusal_seconds < search_seconds
    assert server.ask("/search", IMAGE, content_type="image/png").status == 200


def test_clients_that_leave_free_their_places(server):
    num_left = len([line for line in server.events("request") if line["status"] == 499])

    with ExitStack() as stack:
        for _ in range(MAX_SEARCHES):
            begin_search(server, stack)
        wait_until_in_progress(server, MAX_SEARCHES)
        stack.close()
        wait_until_in_progress(server, 0)

    assert server.ask("/search", IMAGE, content_type="image/png").status == 200
    left = [line for line in server.events("request") if line["status"] == 499]
    assert len(left) - num_left == MAX_SEARCHES


def test_many_large_searches_at_once_cost_no_more_memory_than_their_places(server):
    """40 clients with 2 MiB each, as JSON, which costs the most; each place may cost six times its image."""
    content = b'{"image": "' + base64.b64encode(IMAGE + bytes(MAX_IMAGE_BYTES - len(IMAGE))) + b'"}'
    answers = []

    def ask():
        try:
            answers.append(server.ask("/search", content, content_type="application/json").status)
        except (TimeoutError, ConnectionError):
            answers.append(None)

    before = server.forget_peak()
    at_once(ask, [()] * 40)

    assert set(answers) == {200, 503}
    assert server.peak_bytes() - before < MAX_SEARCHES * 6 * MAX_IMAGE_BYTES + 32 * MIB
