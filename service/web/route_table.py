"""The paths and methods of an application, for what requests to other paths and with other methods are told."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from fastapi import Request
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# How similar a misspelt path must be to a route.
_SIMILARITY = 0.8
_LONGEST_MISSPELT_PATH = 100
_MOUNT_METHODS = frozenset({"GET", "HEAD"})


class RouteTable:
    """The routes of an application as they are at its creation."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._methods: dict[str, set[str]] = {}
        for context in iter_route_contexts(routes):
            route: Any = context.original_route
            if isinstance(route, Mount):
                self._methods.setdefault(f"{route.path}/{{path:path}}", set()).update(_MOUNT_METHODS)
            elif context.path is not None:
                self._methods.setdefault(context.path, set()).update(route.methods or ())
        self._patterns = {path: compile_path(path)[0] for path in self._methods}

    def methods_of(self, path: str) -> set[str]:
        """Return the methods of all routes with a path."""
        matching = (self._methods[template] for template in self._matching(path))
        return set().union(*matching)

    def hint(self, path: str) -> str | None:
        """Return the template of the route that a path without a route may mean."""
        if len(path) > _LONGEST_MISSPELT_PATH:
            return None
        for spelling in _other_spellings(path):
            if template := next(self._matching(spelling), None):
                return template
        fixed = [template for template in self._methods if "{" not in template]
        return next(iter(difflib.get_close_matches(path.lower(), fixed, 1, _SIMILARITY)), None)

    def _matching(self, path: str) -> Iterator[str]:
        return (template for template, pattern in self._patterns.items() if pattern.match(path))


class HeadRequests:
    """Answers HEAD where a route supports only GET: as GET, without the content."""

    def __init__(self, app: ASGIApp, routes: RouteTable) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        methods = self._routes.methods_of(_path_of(scope))
        if "HEAD" in methods or "GET" not in methods:
            await self._app(scope, receive, send)
            return

        async def send_without_content(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # Restored for the log; a copy of the scope would hide the matched route from it.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_without_content)
        finally:
            scope["method"] = "HEAD"


def routes_of(request: Request) -> RouteTable:
    """Return the routes of the application that handles a request."""
    return cast(RouteTable, request.app.state.route_table)


def unknown_path_detail(request: Request) -> str:
    """Say that no route has the path of a request, and which one may be meant."""
    meant = routes_of(request).hint(_path_of(request.scope))
    # The path itself is not repeated: it may contain a key.
    return f"no route has this path; did you mean {meant}?" if meant else "no route has this path; /docs lists them"


def allowed_methods(request: Request) -> list[str]:
    """Return the methods that the path of a request supports."""
    return sorted(routes_of(request).methods_of(_path_of(request.scope)))


def _other_spellings(path: str) -> Iterator[str]:
    plain = re.sub(r"/+", "/", path).rstrip("/")
    for spelling in (plain, plain.lower()):
        for prefixed in (spelling, spelling.removeprefix("/v1"), f"/v1{spelling}", f"/v1/admin{spelling}"):
            if prefixed and prefixed != path:
                yield prefixed


def _path_of(scope: Scope) -> str:
    path, prefix = cast(str, scope["path"]), cast(str, scope.get("root_path", ""))
    return path.removeprefix(prefix)
