"""What routes are given: parts of the running application, by type."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from service.access.key_ring import KeyRing
from service.access.scopes import ANYBODY, Actor, Scope
from service.database import Database
from service.engine import LiveEngine, SearchEngine
from service.errors import InsufficientScope, InvalidKey, KeyInAddress, MissingKey
from service.installation import Installation
from service.media import MediaStore
from service.settings import Settings

API_KEY_HEADER = "X-API-Key"
# For the OpenAPI document; what is wrong with a header is said by `Requires`.
_BEARER = HTTPBearer(auto_error=False, description="A key: AKIN_ADMIN_KEY, or one of `akin keys create`.")
_API_KEY = APIKeyHeader(name=API_KEY_HEADER, auto_error=False, description="The same key in a header of its own.")
# Names under which clients of other services send keys in the address.
_KEY_PARAMETERS = frozenset({"key", "api_key", "apikey", "api-key", "x-api-key", "access_token", "token", "admin_key"})


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one application that live as long as it runs."""

    installation: Installation
    live: LiveEngine
    key_ring: KeyRing
    is_search_public: bool

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""
        return self.installation.settings

    @property
    def media_store(self) -> MediaStore:
        """Where pictures lie."""
        return self.installation.media_store

    @property
    def database(self) -> Database:
        """The tables."""
        return self.installation.database


def _parts(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


PartsDep = Annotated[Parts, Depends(_parts)]


def _engine(parts: PartsDep) -> SearchEngine:
    return parts.live.get()


# Taken once a request: the whole answer comes from this release.
EngineDep = Annotated[SearchEngine, Depends(_engine)]


class Requires:
    """Declares the scope of a route: without a key that has it, the answer is 401 or 403, and nothing is done."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        parts: PartsDep,
        _bearer: Annotated[object, Security(_BEARER)],
        _api_key: Annotated[object, Security(_API_KEY)],
    ) -> Actor:
        """Return who asks; raises an AccessError that says what to send."""
        key = _key_of(request)
        if key is None:
            if self.scope is Scope.SEARCH and parts.is_search_public:
                return ANYBODY
            raise MissingKey(
                f"this route needs a key with the scope {self.scope}; send it as the header "
                f"Authorization: Bearer KEY, or {API_KEY_HEADER}: KEY"
            )
        actor = await parts.key_ring.find(key)
        # For the audit log, which has those too who may not.
        request.state.actor = actor
        if not actor.may(self.scope):
            held = ", ".join(sorted(actor.scopes)) or "none"
            raise InsufficientScope(f"the key {actor.name!r} has not the scope {self.scope} (it has: {held})")
        return actor


class Public:
    """Declares that a route is for everybody, whoever may search."""

    def __call__(self) -> None:
        """Let everybody in."""


def refuse_key_in_address(request: Request) -> None:
    """Raise KeyInAddress for a key in the query string; its value is not repeated."""
    for name, value in request.query_params.multi_items():
        if name.lower() in _KEY_PARAMETERS or value.startswith("akin_"):
            raise KeyInAddress(
                f"the address has a key in {name!r:.40}, where logs keep it: send it in a header, and rotate this one"
            )


def _key_of(request: Request) -> str | None:
    """Return the key that a request brings, None for none; raises InvalidKey for two different ones."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    given = [credentials] if scheme.lower() == "bearer" else []
    found = {key.strip() for key in (*given, *request.headers.getlist(API_KEY_HEADER)) if key.strip()}
    if len(found) > 1:
        raise InvalidKey(f"the request has two different keys, in Authorization and {API_KEY_HEADER}; send one")
    return found.pop() if found else None


# Each route asks for one of these, or is `PUBLIC`; `create_app` refuses one that does not say.
SearchDep = Annotated[Actor, Depends(Requires(Scope.SEARCH))]
WriterDep = Annotated[Actor, Depends(Requires(Scope.CATALOGUE_WRITE))]
AdminDep = Annotated[Actor, Depends(Requires(Scope.ADMIN))]
PUBLIC = Depends(Public())
