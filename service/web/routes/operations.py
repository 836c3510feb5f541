"""/v1/operations: list and show operations, cancel one, and read the report of its training."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from service.operations.cancelling import request_cancel
from service.operations.kinds import Kind
from service.operations.queries import find_operation, find_report, list_operations
from service.storage.tables.operations import OperationState
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.schemas.operations import OPERATIONS_PATH, OperationList, OperationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem

router = APIRouter(prefix=OPERATIONS_PATH, tags=["operations"])

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such operation."},
}
_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "The operation has already ended."}}


class _ListQuery(BaseModel):
    # Without this, a misspelt parameter would be ignored and list everything.
    model_config = ConfigDict(extra="forbid")

    state: list[OperationState] = Field([], description="Only operations in one of these states.")
    kind: Kind | None = Field(None, description="Only operations of this kind.")
    limit: int = Field(50, ge=1, le=200)
    before: str | None = Field(None, description="The last id of the previous page.")


@router.get("", responses=KEY_PROBLEMS)
def operations(
    request: Request, app_state: AppStateDep, _: AdminDep, query: Annotated[_ListQuery, Query()]
) -> OperationList:
    """List operations, newest first."""
    page, has_more = list_operations(
        app_state.database, kind=query.kind, states=query.state, limit=query.limit, before=query.before
    )
    root_path = request.scope.get("root_path", "")
    next_page = None
    if has_more:
        parameters = request.url.include_query_params(before=page[-1].id).query
        next_page = f"{root_path}{OPERATIONS_PATH}?{parameters}"
    return OperationList(operations=[OperationView.of(operation, root_path) for operation in page], next=next_page)


@router.get("/{operation_id}", responses=_NOT_FOUND)
def operation(request: Request, app_state: AppStateDep, _: AdminDep, operation_id: str) -> OperationView:
    """Show an operation's state, progress and result."""
    found = find_operation(app_state.database, operation_id)
    return OperationView.of(found, request.scope.get("root_path", ""))


@router.post("/{operation_id}:cancel", status_code=202, responses={**_NOT_FOUND, **_ENDED})
def cancel(request: Request, app_state: AppStateDep, _: AdminDep, operation_id: str) -> OperationView:
    """Cancel an operation: at once if it is queued, within seconds if a worker has it. Idempotent."""
    cancelled = request_cancel(app_state.database, operation_id)
    return OperationView.of(cancelled, request.scope.get("root_path", ""))


@router.get(
    "/{operation_id}/report",
    response_class=FileResponse,
    responses={**_NOT_FOUND, 200: {"content": {"text/html": {}}, "description": "The report, a single HTML file."}},
)
def report(app_state: AppStateDep, _: AdminDep, operation_id: str) -> Response:
    """Return the report of a retrain's training run, a self-contained page: curves, metrics, nearest neighbours."""
    path = find_report(app_state.installation, operation_id)
    headers = {"Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"}
    return FileResponse(path, media_type="text/html", headers=headers)
