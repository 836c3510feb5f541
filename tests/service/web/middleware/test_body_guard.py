"""Limits on bodies: in bytes for every route and content type, and in time."""

import asyncio
import re
from typing import Any

import pytest
from fastapi import Request
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from service.installation.settings import Settings
from service.web.app import create_app
from service.web.errors import BodyTooSlow, ClientLeft
from service.web.middleware.body_guard import DEFAULT_BODY_BYTES, BodyGuard, read_chunks
from tests.service.fixtures.server_process import KEY

MIB = 2**20
_CHUNK = bytes(65_536)
# Routes with a limit above the default.
LARGE_BODIES = {
    "/search": 4 * MIB,
    "/v1/search": 4 * MIB,
    "/v1/admin/labels": 12 * MIB,
    "/v1/admin/catalogue": 12 * MIB,
    "/v1/imports": 12 * MIB,
    "/v1/admin/retrain": 12 * MIB,
    "/admin/retrain": 12 * MIB,
}
CONTENT_TYPES = ("application/json", "image/png", "application/zip", "text/csv", "multipart/form-data; boundary=x", "")


async def bytes_received(app, method, path, content_type):
    """Send a body of 64 MiB to a route; return the number of bytes that the application received, and the status."""
    received = 0
    statuses: list[int] = []

    async def receive():
        nonlocal received
        if statuses:
            return {"type": "http.disconnect"}
        received += len(_CHUNK)
        return {"type": "http.request", "body": _CHUNK, "more_body": received < 64 * MIB}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = {"transfer-encoding": "chunked", "content-type": content_type, "authorization": f"Bearer {KEY}"}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "app": app,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    (status,) = statuses
    return received, status


def test_no_route_receives_more_than_its_limit(tmp_path):
    """All routes, with all content types that any of them supports."""
    settings = Settings(
        home=tmp_path / "home",
        admin_key=SecretStr(KEY),
        max_image_bytes=2 * MIB,
        max_upload_bytes=8 * MIB,
    )
    app = create_app(settings)
    routes = [
        (method, re.sub(r"\{[^}]*\}", "x", getattr(context.original_route, "path", "")))
        for context in iter_route_contexts(app.routes)
        for method in sorted(getattr(context.original_route, "methods", None) or {"POST"})
    ]
    assert len(routes) > 50

    async def walk():
        async with app.router.lifespan_context(app):
            return {
                (method, path): [
                    await bytes_received(app, method, path, content_type) for content_type in CONTENT_TYPES
                ]
                for method, path in routes
            }

    for (method, path), outcomes in asyncio.run(walk()).items():
        limit = LARGE_BODIES.get(path, DEFAULT_BODY_BYTES) if method == "POST" else DEFAULT_BODY_BYTES
        for received, _ in outcomes:
            assert received <= limit + len(_CHUNK), (method, path)
        if method == "POST" and path != "/static":
            assert 413 in {status for _, status in outcomes} or max(received for received, _ in outcomes) == 0, path


TIMEOUT_SECONDS = 10.0


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as nothing else is left to do."""

    def __init__(self):
        self._now = 0.0
        super().__init__()

    def time(self):
        return self._now

    def _run_once(self):
        # asyncio has no public hook for this; the names are those of its BaseEventLoop.
        loop: Any = self
        timers = [timer.when() for timer in loop._scheduled if not timer.cancelled()]
        if timers and not loop._ready:
            self._now = max(self._now, min(timers))
        super()._run_once()  # type: ignore[misc]  # private


def read_slowly(pauses, *, may_pause, then=None):
    """Read a body that has one byte after each pause, in seconds, and then the message `then`; return the body."""

    async def read(scope, receive, send):
        chunks = read_chunks(Request(scope, receive), 100, "too large", may_pause=may_pause)
        return b"".join([chunk async for chunk in chunks])

    messages = [(pause, {"type": "http.request", "body": b"x", "more_body": True}) for pause in pauses]
    messages.append((0.0, then or {"type": "http.request", "body": b"", "more_body": False}))

    async def receive():
        pause, message = messages.pop(0)
        await asyncio.sleep(pause)
        return message

    results = []

    async def app(scope, receive, send):
        results.append(await read(scope, receive, send))

    async def discard(message):
        pass

    guard = BodyGuard(app, timeout_seconds=TIMEOUT_SECONDS)
    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        runner.run(guard(scope, receive, discard))
    return results[0]


def test_a_small_body_may_take_the_time_limit_in_all():
    assert read_slowly([3.0, 3.0, 3.0], may_pause=False) == b"xxx"
    with pytest.raises(BodyTooSlow, match="did not arrive within 10 s"):
        read_slowly([3.0, 3.0, 3.0, 3.0], may_pause=False)


def test_an_upload_may_take_longer_but_not_pause_longer():
    assert read_slowly([9.0] * 10, may_pause=True) == b"x" * 10
    with pytest.raises(BodyTooSlow, match="paused for 10 s"):
        read_slowly([9.0, 11.0], may_pause=True)


def test_a_client_that_disconnects_within_the_body_is_recognised():
    with pytest.raises(ClientLeft):
        read_slowly([0.0], may_pause=True, then={"type": "http.disconnect"})
