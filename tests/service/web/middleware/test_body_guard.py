"""No route reads more of a body than its limit, whatever it is told of its type."""

import asyncio
import re

from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from service.installation.settings import Settings
from service.web.app import create_app
from service.web.middleware.body_guard import DEFAULT_BODY_BYTES
from tests.service.fixtures.server_process import KEY

MIB = 2**20
_CHUNK = bytes(65_536)
# Of these a client may send more than the default.
LARGE_BODIES = {
    "/search": 4 * MIB,
    "/v1/search": 4 * MIB,
    "/v1/admin/labels": 12 * MIB,
    "/v1/admin/catalogue": 12 * MIB,
    "/v1/admin/retrain": 12 * MIB,
    "/admin/retrain": 12 * MIB,
}
CONTENT_TYPES = ("application/json", "image/png", "application/zip", "text/csv", "multipart/form-data; boundary=x", "")


async def bytes_taken(app, method, path, content_type):
    """Send a body of 64 MiB to a route; return how much of it was taken, and the status."""
    taken = 0
    statuses: list[int] = []

    async def receive():
        nonlocal taken
        if statuses:
            return {"type": "http.disconnect"}
        taken += len(_CHUNK)
        return {"type": "http.request", "body": _CHUNK, "more_body": taken < 64 * MIB}

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
    return taken, status


def test_every_route_takes_no_more_than_its_limit(served_home):
    """All routes, with all content types that any of them reads."""
    settings = Settings(
        home=served_home,
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
                (method, path): [await bytes_taken(app, method, path, content_type) for content_type in CONTENT_TYPES]
                for method, path in routes
            }

    for (method, path), outcomes in asyncio.run(walk()).items():
        limit = LARGE_BODIES.get(path, DEFAULT_BODY_BYTES) if method == "POST" else DEFAULT_BODY_BYTES
        for taken, _ in outcomes:
            assert taken <= limit + len(_CHUNK), (method, path)
        if method == "POST" and path != "/static":
            assert 413 in {status for _, status in outcomes} or max(taken for taken, _ in outcomes) == 0, path
