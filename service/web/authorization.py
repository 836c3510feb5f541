"""What routes are given: parts of the running application, by type."""

from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr

from service.access.errors import InsufficientScope, InvalidKey, KeyInAddress, MissingKey
from service.access.keys import has_key, without_keys
from service.access.scopes import ANYBODY, Actor, Scope
from service.installation.settings import Settings
from service.web.app_state import app_state_of

API_KEY_HEADER = "X-API-Key"
# For the OpenAPI document; what is wrong with a header is said by `Requires`.
_BEARER = HTTPBearer(auto_error=False, description="A key: AKIN_ADMIN_KEY, or one of `akin keys create`.")
_API_KEY = APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="The same key in a header of its own.")
# Names under which clients of other services send keys in the address.
_KEY_PARAMETERS = frozenset({"key", "api_key", "apikey", "api-key", "x-api-key", "access_token", "token", "admin_key"})


# All of these are coroutines: the framework would run functions in its pool of threads, and a search would wait there
# behind routes that wait for a database.


class Requires:
    """Declares the scope of a route: without a key that has it, the answer is 401 or 403, and nothing is done."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[object, Security(_BEARER)],
        _api_key: Annotated[object, Security(_API_KEY)],
    ) -> Actor:
        """Return who asks; raises an AccessError that says what to send."""
        return await self.check(request)

    async def check(self, request: Request) -> Actor:
        """Return who asks, for whoever has only the request."""
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
        # For the audit log, which has those too who may not.
        request.state.actor = actor
        if found.refusal is not None:
            raise found.refusal
        if not actor.may(self.scope):
            held = ", ".join(sorted(actor.scopes)) or "none"
            raise InsufficientScope(f"the key {actor.name!r} has not the scope {self.scope} (it has: {held})")
        return actor


class Public:
    """Declares that a route is for everybody, whoever may search."""

    async def __call__(self) -> None:
        """Let everybody in."""


async def refuse_key_in_address(request: Request) -> None:
    """Raise KeyInAddress for a key in the path or the query string; it is not repeated."""
    admin_key = cast(Settings, request.app.state.settings).admin_key
    where = [name for name, value in request.query_params.multi_items() if _is_key(name, value, admin_key)]
    # As it came too: a parameter has lost what means something in a query, such as + and =.
    query = request.scope["query_string"].decode("latin-1")
    if where or has_key(request.scope["path"], admin_key) or has_key(query, admin_key):
        place = f"the parameter {without_keys(where[0], admin_key)!r:.40}" if where else "the path or the query"
        raise KeyInAddress(
            f"the address has a key in {place}, where logs keep it: send it in a header, and rotate this one"
        )


def _is_key(name: str, value: str, admin_key: SecretStr | None) -> bool:
    return name.lower() in _KEY_PARAMETERS or has_key(name, admin_key) or has_key(value, admin_key)


def _key_of(request: Request) -> str | None:
    """Return the key that a request brings, None for none; raises InvalidKey for two different ones."""
    given = request.headers.getlist(API_KEY_HEADER)
    for header in request.headers.getlist("authorization"):
        scheme, _, credentials = header.strip().partition(" ")
        if scheme.lower() == "bearer":
            given.append(credentials)
    found = {key.strip() for key in given if key.strip()}
    if len(found) > 1:
        raise InvalidKey(f"the request has two different keys in Authorization and {API_KEY_HEADER}; send one")
    return found.pop() if found else None


# Each route asks for one of these, or is `PUBLIC`; `create_app` refuses one that does not say.
SearchDep = Annotated[Actor, Depends(Requires(Scope.SEARCH))]
WriterDep = Annotated[Actor, Depends(Requires(Scope.CATALOGUE_WRITE))]
AdminDep = Annotated[Actor, Depends(Requires(Scope.ADMIN))]
PUBLIC = Depends(Public())
