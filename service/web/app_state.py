"""The parts of a running application, and the dependencies that give them to routes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.access.audit_writer import AuditWriter
from service.access.key_ring import KeyRing
from service.installation.installation import Installation
from service.installation.settings import Settings
from service.labels.listing import LabelListing
from service.serving.engine import LiveEngine, SearchEngine
from service.storage.database import Database
from service.storage.disk import DiskWatch
from service.storage.media import MediaStore
from service.web.admission import Admission
from service.web.metrics import ServerMetrics
from service.web.readiness import ProcessState


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts of an application that exist from its start to its end."""

    installation: Installation
    live: LiveEngine
    key_ring: KeyRing
    audit: AuditWriter
    metrics: ServerMetrics
    admission: Admission
    process_state: ProcessState
    disk: DiskWatch
    label_listing: LabelListing
    body_decoders: ThreadPoolExecutor  # for bodies that take time to parse
    is_search_public: bool

    @property
    def settings(self) -> Settings:
        """Settings of the installation."""
        return self.installation.settings

    @property
    def media_store(self) -> MediaStore:
        """The store of image files."""
        return self.installation.media_store

    @property
    def database(self) -> Database:
        """The tables."""
        return self.installation.database


async def _app_state(request: Request) -> AppState:
    return app_state_of(request)


def app_state_of(request: Request) -> AppState:
    """Return the parts of the application that handles a request."""
    return cast(AppState, request.app.state.akin)


AppStateDep = Annotated[AppState, Depends(_app_state)]


async def _engine(app_state: AppStateDep) -> SearchEngine:
    return app_state.live.get()


# Resolved once per request, so that the whole response comes from one release.
EngineDep = Annotated[SearchEngine, Depends(_engine)]
