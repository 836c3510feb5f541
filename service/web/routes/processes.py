"""/v1/admin/processes."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from service.installation.processes import read_processes
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.schemas.problems import KEY_PROBLEMS
from service.web.schemas.processes import ProcessList, ProcessView

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.get("/processes", responses=KEY_PROBLEMS)
def processes(
    app_state: AppStateDep,
    _: AdminDep,
    kind: Annotated[Literal["api", "worker"] | None, Query(description="Only those of this kind.")] = None,
) -> ProcessList:
    """List servers and workers: which are alive, and which release each server answers from."""
    known = read_processes(app_state.database, kind=kind)
    return ProcessList(processes=[ProcessView.of(process, is_living=is_living) for process, is_living in known])
