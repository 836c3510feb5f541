"""Every route says who may use it; one that does not is a mistake that is found before anything is served."""

from collections.abc import Iterator, Sequence

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute, Mount, Route

from service.dependencies import Public, Requires

PUBLIC = "public"
# Made by the framework and the mount of static files, with nothing in them that is anybody's.
_OTHERS_PUBLIC = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/static"})


def declared_scopes(routes: Sequence[BaseRoute]) -> Iterator[tuple[BaseRoute, str | None]]:
    """Give each route with the scope that it declares, or `PUBLIC`; None where it declares nothing, or two things."""
    for context in iter_route_contexts(routes):
        yield context.original_route, _declared(context.original_route)


def require_declared_scopes(routes: Sequence[BaseRoute]) -> None:
    """Raise AssertionError naming the routes that do not say who may use them."""
    silent = [str(getattr(route, "path", route)) for route, scope in declared_scopes(routes) if scope is None]
    assert not silent, f"these routes declare no scope, or more than one: {', '.join(silent)}"


def _declared(route: BaseRoute) -> str | None:
    if isinstance(route, APIRoute):
        declared = {
            dependency.scope.value if isinstance(dependency, Requires) else PUBLIC
            for dependency in _dependencies(route.dependant)
            if isinstance(dependency, Requires | Public)
        }
        return declared.pop() if len(declared) == 1 else None
    is_known = isinstance(route, Route | Mount) and route.path in _OTHERS_PUBLIC
    return PUBLIC if is_known else None


def _dependencies(dependant: Dependant) -> Iterator[object]:
    for inner in dependant.dependencies:
        yield inner.call
        yield from _dependencies(inner)
