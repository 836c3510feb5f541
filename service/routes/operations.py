"""/v1/operations: what workers do, how far they are, and how it ended."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from service.dependencies import AdminDep, PartsDep
from service.errors import OperationNotFound
from service.operations.folder import RUN
from service.operations.records import get_operation, list_operations, request_cancel
from service.schemas import Problem
from service.schemas_operations import OPERATIONS_PATH, OperationList, OperationView
from training.report.run_folder import REPORT

router = APIRouter(prefix=OPERATIONS_PATH, tags=["operations"])

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such operation."}}
_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "It has ended already."}}

States = Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled"]


@router.get("")
def operations(
    request: Request,
    parts: PartsDep,
    _: AdminDep,
    state: Annotated[list[States] | None, Query(description="Only those in one of these states.")] = None,
    kind: Annotated[Literal["retrain", "build"] | None, Query(description="Only those of this kind.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(description="The last id of an earlier page.")] = None,
) -> OperationList:
    """List operations, the newest first."""
    with parts.database.reading() as session:
        found = list_operations(session, kind=kind, states=state or (), limit=limit + 1, before=before)
    root_path = request.scope.get("root_path", "")
    page = [OperationView.of(operation, root_path) for operation in found[:limit]]
    following = None
    if len(found) > limit:
        following = root_path + str(request.url.include_query_params(before=page[-1].operation_id).path)
        following += "?" + str(request.url.include_query_params(before=page[-1].operation_id).query)
    return OperationList(operations=page, next=following)


@router.get("/{operation_id}", responses=_NOT_FOUND)
def operation(request: Request, parts: PartsDep, _: AdminDep, operation_id: str) -> OperationView:
    """Say how far an operation is, or how it ended."""
    with parts.database.reading() as session:
        return OperationView.of(get_operation(session, operation_id), request.scope.get("root_path", ""))


@router.post("/{operation_id}:cancel", status_code=202, responses={**_NOT_FOUND, **_ENDED})
def cancel(request: Request, parts: PartsDep, _: AdminDep, operation_id: str) -> OperationView:
    """Ask for an end: at once while it waits, within seconds where a worker has it. Asking twice is asking once."""
    cancelled = request_cancel(parts.database, operation_id)
    return OperationView.of(cancelled, request.scope.get("root_path", ""))


@router.get(
    "/{operation_id}/report",
    response_class=FileResponse,
    responses={**_NOT_FOUND, 200: {"content": {"text/html": {}}, "description": "The report, one file."}},
)
def report(parts: PartsDep, _: AdminDep, operation_id: str) -> Response:
    """Return the report of a retrain's training run: curves, figures, neighbours, in one page that needs nothing."""
    with parts.database.reading() as session:
        get_operation(session, operation_id)
    path = parts.settings.operations_dir / operation_id / RUN / REPORT
    if not path.is_file():
        raise OperationNotFound(f"{operation_id} has no report: it trains still, did not get so far, or trains nothing")
    headers = {"Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"}
    return FileResponse(path, media_type="text/html", headers=headers)
