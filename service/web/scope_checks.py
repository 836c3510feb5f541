"""Checks that every route declares who may use it, before anything is served."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute, Mount, Route

from service.web.authorization import Public, Requires, refuse_key_in_address
from service.web.bodies.reading import JSON, content_type_of, json_text, parse_json

PUBLIC = "public"
# Routes of the framework and the mount of static files; they contain nothing of an installation.
_OTHERS_PUBLIC = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/static"})


class KeyFirstRoute(APIRoute):
    """A route that checks the key before it reads the body, which must be strict JSON.

    FastAPI reads and parses the body before it calls dependencies: it would do so for requests without a key, and
    report errors of their bodies.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with the check before it; the dependency then checks again."""
        handle = super().get_route_handler()
        declared = list(_declarations(self))

        async def handle_with_key(request: Request) -> Response:
            await refuse_key_in_address(request)
            for required in declared:
                if isinstance(required, Requires):
                    await required.check(request)
            if self.body_field and (body := await request.body()) and content_type_of(request) == JSON:
                # The framework takes a repeated name, and UTF-16.
                parse_json(json_text(body))
            return await handle(request)

        return handle_with_key


def declared_scopes(routes: Sequence[BaseRoute]) -> Iterator[tuple[BaseRoute, str | None]]:
    """Yield each route with what `declared_scope` returns for it."""
    for context in iter_route_contexts(routes):
        yield context.original_route, declared_scope(context.original_route)


def declared_scope(route: BaseRoute) -> str | None:
    """Return the scope that a route declares, or `PUBLIC`; None if it declares nothing or several scopes."""
    if isinstance(route, APIRoute):
        declared = {
            declaration.scope.value if isinstance(declaration, Requires) else PUBLIC
            for declaration in _declarations(route)
        }
        return declared.pop() if len(declared) == 1 else None
    is_known = isinstance(route, Route | Mount) and route.path in _OTHERS_PUBLIC
    return PUBLIC if is_known else None


def require_declared_scopes(routes: Sequence[BaseRoute]) -> None:
    """Raise AssertionError naming the routes that declare no scope, or whose body is read before the key."""
    undeclared = [_name(route) for route, scope in declared_scopes(routes) if scope is None]
    assert not undeclared, f"these routes declare no scope, or more than one: {', '.join(undeclared)}"
    read_first = [
        _name(route)
        for route, scope in declared_scopes(routes)
        if isinstance(route, APIRoute) and route.body_field and scope != PUBLIC and not isinstance(route, KeyFirstRoute)
    ]
    assert not read_first, (
        f"the bodies of these routes are read before the key, use KeyFirstRoute: {', '.join(read_first)}"
    )


def _declarations(route: APIRoute) -> Iterator[Requires | Public]:
    for dependency in _dependencies(route.dependant):
        if isinstance(dependency, Requires | Public):
            yield dependency


def _dependencies(dependant: Dependant) -> Iterator[object]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _dependencies(inner)


def _name(route: BaseRoute) -> str:
    return str(getattr(route, "path", route))
