"""Uploads: counted while they arrive, written completely or not at all."""

import asyncio
import os
import time
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.requests import Request

from service.catalogue.unpacking import unpacked
from service.web.bodies import uploads
from service.web.bodies.uploads import receive_form, receive_to_file, upload_folder
from service.web.errors import BodyTooLarge, ClientLeft, EmptyBody, InvalidForm
from tests.service.catalogue.test_archives import write_zip

BOUNDARY = "limit-of-parts"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def request_of(chunks, *, content_type="text/csv", headers=(), disconnects=False):
    """Return a request with a body in these chunks; `disconnects`: the client disconnects after them."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if disconnects else {"type": "http.request", "body": b""})

    async def receive():
        return messages.pop(0)

    raw = [(b"content-type", content_type.encode()), *((name.encode(), value.encode()) for name, value in headers)]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b""}, receive)


def part(name, content, filename=None):
    """Return one part of a form."""
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form_of(*parts, is_closed=True):
    return b"".join(parts) + (f"--{BOUNDARY}--\r\n".encode() if is_closed else b"")


def to_file(tmp_path, chunks, limit=100, **options):
    return asyncio.run(receive_to_file(request_of(chunks, **options), tmp_path / "body", limit))


def receive(folder, body, limit=10_000, **options):
    chunks = body if isinstance(body, list) else [body]
    fields = {"file_fields": ("archive", "image"), "text_fields": ("label", "note"), **options.pop("fields", {})}
    request = request_of(chunks, content_type=options.pop("content_type", CONTENT_TYPE), **options)
    return asyncio.run(receive_form(request, folder, limit=limit, **fields))


def test_a_body_is_written_completely(tmp_path):
    path = to_file(tmp_path, [b"abc", b"", b"defg"])

    assert path.read_bytes() == b"abcdefg"


def test_a_body_in_several_writes_is_written_completely(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "_WRITE_BYTES", 64)
    chunks = [os.urandom(50) for _ in range(9)]

    assert to_file(tmp_path, chunks, limit=450).read_bytes() == b"".join(chunks)


def test_a_body_of_exactly_the_limit_is_accepted(tmp_path):
    assert to_file(tmp_path, [b"x" * 60, b"x" * 40]).stat().st_size == 100


def test_a_body_is_refused_at_the_first_byte_over_the_limit(tmp_path):
    with pytest.raises(BodyTooLarge, match="larger than 100 bytes"):
        to_file(tmp_path, [b"x" * 60, b"x" * 41, b"never read"], disconnects=True)

    assert list(tmp_path.iterdir()) == []


def test_a_declared_length_over_the_limit_is_refused_unread(tmp_path):
    with pytest.raises(BodyTooLarge):
        to_file(tmp_path, [], headers=[("content-length", "101")], disconnects=True)


def test_an_empty_body_is_refused(tmp_path):
    with pytest.raises(EmptyBody, match="0 bytes"):
        to_file(tmp_path, [])

    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_body_that_disconnects(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "_WRITE_BYTES", 1)

    with pytest.raises(ClientLeft, match="disconnected"):
        to_file(tmp_path, [b"abc", b"def"], disconnects=True)

    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_request_that_is_cancelled(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "_WRITE_BYTES", 1)

    async def cancel():
        request = request_of([b"abc"])
        first_chunk = await request.receive()
        is_written = asyncio.Event()

        async def receive():
            # The second call comes after the first chunk was written.
            if not (tmp_path / "body").exists():
                return first_chunk
            is_written.set()
            return await asyncio.Future()

        task = asyncio.create_task(receive_to_file(Request(request.scope, receive), tmp_path / "body", 100))
        await is_written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())

    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_the_disk_is_full(tmp_path, monkeypatch):
    def full(self, content, *, is_last=False):
        self._file = self.path.open("xb")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads._GrowingFile, "_append", full)

    with pytest.raises(OSError, match="No space left"):
        to_file(tmp_path, [b"abc"])

    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "body").write_text("kept")

    with pytest.raises(FileExistsError):
        to_file(tmp_path, [b"new"])

    assert (tmp_path / "body").read_text() == "kept"


def test_a_form_is_received_with_its_file_and_texts(tmp_path):
    body = form_of(part("label", "Äpfel".encode()), part("archive", b"PK\r\n--content", "Shop.ZIP"), part("note", b""))

    form = receive(tmp_path, body)

    assert form.fields == {"label": "Äpfel", "note": ""}
    assert form.files == {"archive": tmp_path / "archive.zip"}
    assert form.files["archive"].read_bytes() == b"PK\r\n--content"


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_a_form_is_parsed_from_any_chunks(tmp_path_factory, content, cuts):
    folder = tmp_path_factory.mktemp("form")
    body = form_of(part("label", b"red"), part("image", content, "a.png"))
    places = sorted({0, *(min(cut, len(body)) for cut in cuts), len(body)})

    form = receive(folder, [body[start:end] for start, end in pairwise(places)])

    assert form.files["image"].read_bytes() == content
    assert form.fields == {"label": "red"}


@pytest.mark.parametrize(
    "filename", ["../../etc/passwd", "/etc/cron.d/x", "a\\..\\b.png", "x.p/ng", "\0.png", "", "a." + "b" * 50, ".zip"]
)
def test_only_a_plain_extension_of_a_file_name_is_used(tmp_path, filename):
    form = receive(tmp_path, form_of(part("image", b"x", filename)))

    assert form.files["image"].parent == tmp_path
    assert form.files["image"].name in ("image", "image.png", "image.zip")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form_of(part("archive", b"abc", "a.zip"), is_closed=False), "is truncated"),
        (part("archive", b"abc", "a.zip")[:-6], "is truncated"),
        (b"", "is truncated"),
        (form_of(part("other", b"x", "a.zip")), "unknown field 'other'; supported are archive, image, label, note"),
        (form_of(part("other", b"x")), "unknown field 'other'"),
        (form_of(part("archive", b"x", "a"), part("archive", b"x", "b")), "field 'archive' twice"),
        (form_of(part("archive", b"x", "a"), part("label", b"x"), part("label", b"x")), "field 'label' twice"),
        (form_of(part("archive", b"x", "a"), part("image", b"x", "b")), "two files, 'archive' and 'image'"),
        (form_of(part("archive", b"PK")), "is text and must be a file; with curl use -F archive=@FILE"),
        (form_of(part("label", b"x", "a.txt")), "is a file and must be text"),
        (form_of(part("label", b"red")), "no file field 'archive' or 'image' .fields: 'label'."),
        (form_of(), "no file field"),
        (form_of(part("archive", b"x", "a"), part("label", b"\xff")), "not UTF-8"),
        (form_of(part("archive", b"x", "a"), part("label", b"x" * 300_000)), "more than 262,144 bytes"),
        (b"garbage" * 10, "cannot be read"),
        (f"--{BOUNDARY}\r\nX: y\r\n\r\nabc\r\n--{BOUNDARY}--\r\n".encode(), "no name"),
        (f"--{BOUNDARY}\r\nX: {'y' * 20_000}\r\n\r\n".encode(), "cannot be read: .*[Hh]eader"),
    ],
)
def test_an_invalid_form_is_refused_and_leaves_no_file(tmp_path, body, message):
    with pytest.raises(InvalidForm, match=message):
        receive(tmp_path, body, limit=1_000_000)

    assert list(tmp_path.iterdir()) == []


def test_an_unknown_field_is_refused_before_its_content_arrives(tmp_path):
    first = part("wrong", b"", "a.zip")[:-2]

    with pytest.raises(InvalidForm, match="unknown field"):
        receive(tmp_path, [first, b"x" * 5000, b"x" * 5000], disconnects=True)


def test_a_form_without_a_boundary_is_refused(tmp_path):
    with pytest.raises(InvalidForm, match="no boundary"):
        receive(tmp_path, form_of(), content_type="multipart/form-data")
    with pytest.raises(InvalidForm, match="cannot be read"):
        receive(tmp_path, form_of(), content_type=f"multipart/form-data; boundary={'b' * 9000}")


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(EmptyBody, match="the field 'archive' is empty"):
        receive(tmp_path, form_of(part("archive", b"", "a.zip")))

    assert list(tmp_path.iterdir()) == []


def test_a_form_over_the_limit_is_refused_while_it_arrives(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "_FORM_OVERHEAD_BYTES", 500)
    monkeypatch.setattr(uploads, "_WRITE_BYTES", 1)
    chunks = [part("archive", b"", "a.zip")[:-2], b"x" * 500, b"x" * 500, b"never read"]

    with pytest.raises(BodyTooLarge, match="larger than 400 bytes"):
        receive(tmp_path, chunks, limit=400, disconnects=True)

    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_request_is_removed_after_an_error(settings):
    async def fail():
        async with upload_folder(settings) as folder:
            (folder / "x").write_text("x")
            assert folder.is_relative_to(settings.home)
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(fail())

    assert list((settings.home / "uploads").iterdir()) == []


def test_folders_of_killed_processes_are_removed_after_a_day(settings):
    old, young = settings.home / "uploads" / "old", settings.home / "uploads" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 100_000,) * 2)

    async def use():
        async with upload_folder(settings):
            pass

    asyncio.run(use())

    assert list((settings.home / "uploads").iterdir()) == [young]


def test_an_archive_is_unpacked_for_the_duration_of_the_block(settings, tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"x/y.txt": b"1"})

    with unpacked(archive, settings) as folder:
        assert (folder / "x" / "y.txt").read_bytes() == b"1"
        assert folder.is_relative_to(settings.home)

    assert list((settings.home / "uploads").iterdir()) == []
