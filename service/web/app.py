"""Create the HTTP application and connect its parts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.access.background import open_access
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.labels.listing import LabelListing
from service.releases.files import LoadedRelease, load_release
from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine, SearchEngine
from service.serving.inference import InferenceThread
from service.serving.watcher import ReleaseWatcher
from service.storage.disk import DiskWatch
from service.web.admission import Admission
from service.web.app_state import AppState
from service.web.authorization import refuse_key_in_address
from service.web.bodies.search import max_search_bytes
from service.web.conditional import ConditionalFiles
from service.web.cross_origin import cross_origin
from service.web.metrics import ServerMetrics
from service.web.middleware.audit import AuditRecorder
from service.web.middleware.body_guard import BodyGuard
from service.web.middleware.request_log import RequestLog
from service.web.problems import STATUSES, as_handler, disk_problem, http_problem, known_problem, validation_problem
from service.web.readiness import ProcessState
from service.web.route_table import HeadRequests, RouteTable
from service.web.routes import audit as audit_routes
from service.web.routes import (
    catalogue,
    evaluations,
    health,
    keys,
    labels,
    media,
    operations,
    pages,
    processes,
    releases,
    retrain,
    search,
)
from service.web.routes import metrics as metrics_route
from service.web.scope_checks import require_declared_scopes

# In this order they appear in the OpenAPI document.
_ROUTE_MODULES = (
    search,
    media,
    health,
    pages,
    releases,
    processes,
    evaluations,
    labels,
    catalogue,
    operations,
    retrain,
    keys,
    audit_routes,
    metrics_route,
)
_DESCRIPTION = """Find the products of a catalogue that look like a photo.

Every error is an `application/problem+json` document (RFC 9457) with a stable `code`.
Every response has the header `X-Request-ID`; the server logs the request with this id."""


def create_app(settings: Settings, *, is_loopback: bool = True) -> FastAPI:
    """Create the application; its lifespan opens the installation.

    `is_loopback`: only this machine can reach the server. Searches then need no key unless the settings require one.
    """
    metrics, process_state = ServerMetrics(), ProcessState()
    admission = Admission(settings.max_searches, max_body_bytes=max_search_bytes(settings.max_image_bytes))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with (
            open_installation(settings) as installation,
            contextlib.closing(DiskWatch(settings.home, min_free_bytes=settings.min_free_bytes)) as disk,
            ThreadPoolExecutor(settings.decode_workers, thread_name_prefix="body") as body_decoders,
        ):
            live = LiveEngine()
            async with open_access(installation.database, settings) as (key_ring, audit):
                app.state.akin = AppState(
                    installation,
                    live,
                    key_ring,
                    audit,
                    metrics,
                    admission,
                    process_state,
                    disk,
                    LabelListing(installation.database),
                    body_decoders,
                    is_search_public=is_loopback if settings.public_search == "auto" else settings.public_search,
                )
                with metrics.observing(installation, disk, live, admission, process_state):
                    async with _following_releases(installation, live, process_state.database):
                        yield

    app = FastAPI(
        title="Akin",
        version=version("akin"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        # The OpenAPI document is the same behind every gateway.
        root_path_in_servers=False,
        # Redirects would go to whatever host the client names, and duplicate the path prefix.
        redirect_slashes=False,
        dependencies=[Depends(refuse_key_in_address)],
    )
    app.state.settings, app.state.metrics, app.state.process_state = settings, metrics, process_state
    for module in _ROUTE_MODULES:
        app.include_router(module.router)
    app.mount("/static", ConditionalFiles(directory=pages.STATIC_DIR), name="static")
    app.state.route_table = RouteTable(app.routes)
    app.add_middleware(HeadRequests, routes=app.state.route_table)
    app.add_middleware(BodyGuard, timeout_seconds=settings.body_timeout_seconds)
    app.add_middleware(AuditRecorder)
    # The last middleware is the outermost: it sees each response as the client receives it.
    app.add_middleware(
        RequestLog,
        metrics=metrics,
        process_state=process_state,
        admin_key=settings.admin_key,
        cross_origin=cross_origin(settings.permitted_origins),
    )
    for error_class in STATUSES:
        app.add_exception_handler(error_class, as_handler(known_problem))
    app.add_exception_handler(OSError, as_handler(disk_problem))
    app.add_exception_handler(HTTPException, as_handler(http_problem))
    app.add_exception_handler(RequestValidationError, as_handler(validation_problem))
    require_declared_scopes(app.routes)
    return app


@contextlib.asynccontextmanager
async def _following_releases(
    installation: Installation, live: LiveEngine, database_state: DatabaseState
) -> AsyncIterator[None]:
    """Serve the active release, and each later one, until the block ends."""
    settings = installation.settings
    inference = InferenceThread()
    decoders = ThreadPoolExecutor(settings.decode_workers, thread_name_prefix="decode")
    searchers = ThreadPoolExecutor(settings.search_workers, thread_name_prefix="search")

    def make_engine(release: LoadedRelease) -> SearchEngine:
        return SearchEngine(release, inference, decoders=decoders, searchers=searchers, limits=installation.limits)

    load = partial(
        load_release,
        settings.releases_dir,
        device=settings.device,
        precision=settings.precision,
        index_device=settings.index_device,
    )
    watcher = ReleaseWatcher(
        installation.database,
        live,
        database_state,
        load=load,
        make_engine=make_engine,
        poll_seconds=settings.release_poll_seconds,
    )
    following = asyncio.create_task(watcher.run())
    try:
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        inference.close()
        decoders.shutdown()
        searchers.shutdown()
