"""How routes declare who may use them, and how the key of a request is checked."""

from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr

from service.access.errors import InsufficientScope, InvalidKey, KeyInAddress, MissingKey
from service.access.masking import has_key, without_keys
from service.access.scopes import ANYBODY, Actor, Scope
from service.installation.settings import Settings
from service.web.app_state import app_state_of

API_KEY_HEADER = "X-API-Key"
# Only for the OpenAPI document; `Requires` reads the headers and reports what is wrong with them.
_BEARER = HTTPBearer(auto_error=False, description="A key: AKIN_ADMIN_KEY, or one created by `akin keys create`.")
_API_KEY = APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="The same key in a header of its own.")
# Parameters in which clients of other services send keys.
_KEY_PARAMETERS = frozenset({"key", "api_key", "apikey", "api-key", "x-api-key", "access_token", "token", "admin_key"})


# All dependencies are coroutines: the framework runs plain functions in its thread pool, where a search would wait
# behind routes that wait for the database.


class Requires:
    """Declares the scope of a route; a request without a key that has the scope is refused before it does anything."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[object, Security(_BEARER)],
        _api_key: Annotated[object, Security(_API_KEY)],
    ) -> Actor:
        """Return the sender of the request; raises AccessError."""
        return await self.check(request)

    async def check(self, request: Request) -> Actor:
        """Return the sender of the request; for callers outside FastAPI's dependencies."""
        app_state = app_state_of(request)
        key = _key_of(request)
        if key is None:
            if self.scope is Scope.SEARCH and app_state.is_search_public:
                return ANYBODY
            raise MissingKey(
                f"this route needs a key with the scope {self.scope}; send it as the header "
                f"Authorization: Bearer KEY, or {API_KEY_HEADER}: KEY"
            )
        found = await app_state.key_ring.find(key)
        actor = found.actor
        # For the audit log, which records refused keys too.
        request.state.actor = actor
        if found.refusal is not None:
            raise found.refusal
        if not actor.may(self.scope):
            held = ", ".join(sorted(actor.scopes)) or "none"
            raise InsufficientScope(f"the key {actor.name!r} lacks the scope {self.scope} (it has: {held})")
        return actor


class Public:
    """Declares that a route needs no key."""

    async def __call__(self) -> None:
        """Accept the request."""


async def refuse_key_in_address(request: Request) -> None:
    """Raise KeyInAddress, which does not repeat the key, for a key in the path or the query string."""
    admin_key = cast(Settings, request.app.state.settings).admin_key
    where = [name for name, value in request.query_params.multi_items() if _is_key(name, value, admin_key)]
    # The raw query too: in parsed parameters, characters of a key such as + and = are lost.
    query = request.scope["query_string"].decode("latin-1")
    if where or has_key(request.scope["path"], admin_key) or has_key(query, admin_key):
        place = f"the parameter {without_keys(where[0], admin_key)!r:.40}" if where else "the path or the query"
        raise KeyInAddress(
            f"the URL contains a key in {place}, and logs keep URLs: send the key in a header, and rotate this one"
        )


def _is_key(name: str, value: str, admin_key: SecretStr | None) -> bool:
    return name.lower() in _KEY_PARAMETERS or has_key(name, admin_key) or has_key(value, admin_key)


def _key_of(request: Request) -> str | None:
    """Return the key in the headers of a request, None for none; raises InvalidKey for two different keys."""
    given = request.headers.getlist(API_KEY_HEADER)
    for header in request.headers.getlist("authorization"):
        scheme, _, credentials = header.strip().partition(" ")
        if scheme.lower() == "bearer":
            given.append(credentials)
    found = {key.strip() for key in given if key.strip()}
    if len(found) > 1:
        raise InvalidKey(f"the request has different keys in Authorization and {API_KEY_HEADER}; send one key")
    return found.pop() if found else None


# Each route declares one of these; `create_app` refuses a route that declares none.
SearchDep = Annotated[Actor, Depends(Requires(Scope.SEARCH))]
WriterDep = Annotated[Actor, Depends(Requires(Scope.CATALOGUE_WRITE))]
AdminDep = Annotated[Actor, Depends(Requires(Scope.ADMIN))]
PUBLIC = Depends(Public())
