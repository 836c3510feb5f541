"""Create the HTTP application and connect its parts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.access.background import open_access
from service.installation.installation import open_installation
from service.installation.pools import ThreadPools
from service.installation.settings import Settings
from service.labels.listing import LabelListing
from service.serving.engine import LiveEngine
from service.serving.following import following_releases
from service.serving.shown_images import ShownImages
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
    imports,
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
    imports,
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
        async with _running_parts(settings, metrics, process_state, admission, is_loopback=is_loopback) as app_state:
            app.state.akin = app_state
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
async def _running_parts(
    settings: Settings, metrics: ServerMetrics, process_state: ProcessState, admission: Admission, *, is_loopback: bool
) -> AsyncIterator[AppState]:
    """Open the installation and the parts that work in the background, until the block ends."""
    with (
        open_installation(settings) as installation,
        ThreadPools(decode_workers=settings.decode_workers, search_workers=settings.search_workers) as pools,
        contextlib.closing(DiskWatch(settings.home, min_free_bytes=settings.min_free_bytes)) as disk,
    ):
        asyncio.get_running_loop().set_default_executor(pools.requests)
        live = LiveEngine()
        async with open_access(installation.database, settings, pools) as (key_ring, audit):
            app_state = AppState(
                installation,
                live,
                key_ring,
                audit,
                metrics,
                admission,
                process_state,
                disk,
                LabelListing(installation.database),
                is_search_public=is_loopback if settings.public_search == "auto" else settings.public_search,
                pools=pools,
                shown_images=ShownImages(live, installation.database, pools.lookups),
            )
            with metrics.observing(installation, disk, live, admission, process_state):
                async with following_releases(
                    installation,
                    live,
                    pools,
                    database_state=process_state.database,
                    network_state=process_state.network,
                    on_run=metrics.record_run,
                ):
                    yield app_state
