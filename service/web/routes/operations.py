"""/v1/operations: what workers do, how far they are, and how it ended."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from service.operations.errors import OperationNotFound
from service.operations.folder import RUN
from service.operations.records import get_operation, list_operations, request_cancel
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.schemas.operations import OPERATIONS_PATH, OperationList, OperationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from training.report.run_folder import REPORT

router = APIRouter(prefix=OPERATIONS_PATH, tags=["operations"])

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such operation."},
}
_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "It has ended already."}}

States = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]


class _ListQuery(BaseModel):
    # A misspelt name would list everything.
    model_config = ConfigDict(extra="forbid")

    state: list[States] = Field([], description="Only those in one of these states.")
    kind: Literal["retrain", "build"] | None = Field(None, description="Only those of this kind.")
    limit: int = Field(50, ge=1, le=200)
    before: str | None = Field(None, description="The last id of an earlier page.")


@router.get("", responses=KEY_PROBLEMS)
def operations(
    request: Request, app_state: AppStateDep, _: AdminDep, query: Annotated[_ListQuery, Query()]
) -> OperationList:
    """List operations, the newest first."""
    with app_state.database.reading() as session:
        found = list_operations(
            session, kind=query.kind, states=query.state, limit=query.limit + 1, before=query.before
        )
    root_path = request.scope.get("root_path", "")
    page = [OperationView.of(operation, root_path) for operation in found[: query.limit]]
    following = None
    if len(found) > query.limit:
        asked = request.url.include_query_params(before=page[-1].operation_id).query
        following = f"{root_path}{OPERATIONS_PATH}?{asked}"
    return OperationList(operations=page, next=following)


@router.get("/{operation_id}", responses=_NOT_FOUND)
def operation(request: Request, app_state: AppStateDep, _: AdminDep, operation_id: str) -> OperationView:
    """Say how far an operation is, or how it ended."""
    with app_state.database.reading() as session:
        return OperationView.of(get_operation(session, operation_id), request.scope.get("root_path", ""))


@router.post("/{operation_id}:cancel", status_code=202, responses={**_NOT_FOUND, **_ENDED})
def cancel(request: Request, app_state: AppStateDep, _: AdminDep, operation_id: str) -> OperationView:
    """Ask for an end: at once while it waits, within seconds where a worker has it. Asking twice is asking once."""
    cancelled = request_cancel(app_state.database, operation_id)
    return OperationView.of(cancelled, request.scope.get("root_path", ""))


@router.get(
    "/{operation_id}/report",
    response_class=FileResponse,
    responses={**_NOT_FOUND, 200: {"content": {"text/html": {}}, "description": "The report, one file."}},
)
def report(app_state: AppStateDep, _: AdminDep, operation_id: str) -> Response:
    """Return the report of a retrain's training run: curves, figures, neighbours, in one page that needs nothing."""
    with app_state.database.reading() as session:
        get_operation(session, operation_id)
    path = app_state.settings.operations_dir / operation_id / RUN / REPORT
    if not path.is_file():
        raise OperationNotFound(f"{operation_id} has no report: it trains still, did not get so far, or trains nothing")
    headers = {"Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"}
    return FileResponse(path, media_type="text/html", headers=headers)
