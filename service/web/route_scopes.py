"""Every route says who may use it; one that does not is a mistake that is found before anything is served."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute, Mount, Route

from service.web.authorization import Public, Requires, refuse_key_in_address

PUBLIC = "public"
# Made by the framework and the mount of static files, with nothing in them that is anybody's.
_OTHERS_PUBLIC = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/static"})


class KeyFirstRoute(APIRoute):
    """A route that looks at the key before the body.

    The framework reads and parses a body first and asks the dependencies afterwards: it would do so for anybody, and
    tell a stranger what is wrong with the body.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with the check before it; the dependency then checks once more."""
        handle = super().get_route_handler()
        declared = list(_declarations(self))

        async def handle_with_key(request: Request) -> Response:
            await refuse_key_in_address(request)
            for required in declared:
                if isinstance(required, Requires):
                    await required.check(request)
            return await handle(request)

        return handle_with_key


def declared_scopes(routes: Sequence[BaseRoute]) -> Iterator[tuple[BaseRoute, str | None]]:
    """Give each route with the scope that it declares, or `PUBLIC`; None where it declares nothing, or two things."""
    for context in iter_route_contexts(routes):
        yield context.original_route, declared_scope(context.original_route)


def declared_scope(route: BaseRoute) -> str | None:
    """Return the scope that a route declares, or `PUBLIC`; None where it declares nothing, or two things."""
    if isinstance(route, APIRoute):
        declared = {
            declaration.scope.value if isinstance(declaration, Requires) else PUBLIC
            for declaration in _declarations(route)
        }
        return declared.pop() if len(declared) == 1 else None
    is_known = isinstance(route, Route | Mount) and route.path in _OTHERS_PUBLIC
    return PUBLIC if is_known else None


def require_declared_scopes(routes: Sequence[BaseRoute]) -> None:
    """Raise AssertionError naming the routes that do not say who may use them, or say it too late."""
    silent = [_name(route) for route, scope in declared_scopes(routes) if scope is None]
    assert not silent, f"these routes declare no scope, or more than one: {', '.join(silent)}"
    late = [
        _name(route)
        for route, scope in declared_scopes(routes)
        if isinstance(route, APIRoute) and route.body_field and scope != PUBLIC and not isinstance(route, KeyFirstRoute)
    ]
    assert not late, (
        f"the framework would read the bodies of these before the key, see KeyFirstRoute: {', '.join(late)}"
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
