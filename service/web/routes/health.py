"""GET /livez, /readyz, /version: health checks for gateways and operators."""

import platform
from importlib.metadata import version

from fastapi import APIRouter

from service.web.app_state import AppStateDep
from service.web.authorization import PUBLIC
from service.web.readiness import check_readiness
from service.web.schemas.health import Liveness, Readiness, Version
from service.web.schemas.problems import Problem

router = APIRouter(tags=["health"], dependencies=[PUBLIC])


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def livez() -> Liveness:
    """Respond that the process runs."""
    return Liveness()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Problem, "description": "Not ready, with the reasons."}})
async def readyz(app_state: AppStateDep) -> Readiness:
    """Tell whether this process should receive searches: 503 without a release or network, and during shutdown.

    `checks` has the state of all parts. Searches need neither the database nor the disk.
    """
    return check_readiness(app_state.live, app_state.process_state, app_state.disk)


@router.head("/version", include_in_schema=False)
@router.get("/version")
async def version_of_all(app_state: AppStateDep) -> Version:
    """Return the versions of Akin, its model and its catalogue."""
    release = app_state.live.current_release()
    facts = release.facts if release else {}
    return Version(
        akin=version("akin"),
        python=platform.python_version(),
        torch=version("torch"),
        release_id=release.release_id if release else None,
        space_id=facts.get("space_id"),
        num_products=facts.get("num_products"),
        num_images=facts.get("num_images"),
        network_runtime=release.embedder.runtime if release else None,
        network_runtime_reason=release.embedder.runtime_reason if release else None,
        index_device=release.index.device if release else None,
    )
