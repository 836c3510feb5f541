"""What routes are given: parts of the running application, by type."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from service.admin_key import Actor, check_admin_key
from service.database import Database
from service.engine import LiveEngine, SearchEngine
from service.installation import Installation
from service.media import MediaStore
from service.settings import Settings

# For the OpenAPI document; what is wrong with a header is said by check_admin_key.
_BEARER = HTTPBearer(auto_error=False, description="The admin key: AKIN_ADMIN_KEY, or what the first start showed.")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one application that live as long as it runs."""

    installation: Installation
    live: LiveEngine

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


def _engine(parts: "PartsDep") -> SearchEngine:
    return parts.live.get()


async def _admin(request: Request, parts: "PartsDep", _: Annotated[object, Security(_BEARER)]) -> Actor:
    authorization = request.headers.get("authorization")
    return await asyncio.to_thread(check_admin_key, parts.database, parts.settings, authorization)


PartsDep = Annotated[Parts, Depends(_parts)]
# Taken once a request: the whole answer comes from this release.
EngineDep = Annotated[SearchEngine, Depends(_engine)]
# Asking for it makes a route an admin route: without the key it answers 401, and does nothing.
AdminDep = Annotated[Actor, Depends(_admin)]
