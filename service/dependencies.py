"""What routes are given: parts of the running application, by type."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.engine import LiveEngine, SearchEngine
from service.media import MediaStore
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one application that live as long as it runs."""

    settings: Settings
    media_store: MediaStore
    live: LiveEngine


def _parts(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


def _engine(parts: "PartsDep") -> SearchEngine:
    return parts.live.get()


PartsDep = Annotated[Parts, Depends(_parts)]
# Taken once a request: the whole answer comes from this release.
EngineDep = Annotated[SearchEngine, Depends(_engine)]
