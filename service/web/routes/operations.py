"""/v1/operations: list and show operations, cancel one, and read the report of its training."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from service.access.errors import InsufficientScope
from service.access.scopes import Actor, Scope
from service.operations.cancelling import cancel_operation
from service.operations.kinds import IMPORT_KINDS, Kind
from service.operations.queries import find_operation, find_report, lacks_worker, list_operations
from service.operations.row_errors import list_row_errors
from service.storage.tables.operations import Operation, OperationState, RowErrorKind
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import AdminDep, WriterDep
from service.web.middleware.audit import note_for_audit
from service.web.schemas.operations import OPERATIONS_PATH, OperationList, OperationView, RowErrorList
from service.web.schemas.problems import KEY_PROBLEMS, Problem

router = APIRouter(prefix=OPERATIONS_PATH, tags=["operations"])

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such operation."},
}
_ENDED: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "The operation has already ended."}}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Identifies this request: repeated with the same key, it returns the operation of the first one.",
    ),
]
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": OperationView, "description": "Queued; `Location` is the URL of the operation."},
    429: {"model": Problem, "description": "Too many operations of this kind are queued."},
}


class _ListQuery(BaseModel):
    # Without this, a misspelt parameter would be ignored and list everything.
    model_config = ConfigDict(extra="forbid")

    state: list[OperationState] = Field([], description="Only operations in one of these states.")
    kind: Kind | None = Field(None, description="Only operations of this kind.")
    limit: int = Field(50, ge=1, le=200)
    before: str | None = Field(None, description="The last id of the previous page.")


class _ErrorQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: RowErrorKind | None = Field(None, description="Only rows that failed, or only files that were left out.")
    limit: int = Field(100, ge=1, le=1000)
    after: int = Field(0, ge=0, le=2**31 - 1, description="The last number of the previous page.")


def accepted(
    request: Request, response: Response, app_state: AppState, queued: Operation, *, is_dry_run: bool = False
) -> OperationView:
    """Describe an operation that a request has queued, and set the headers of the response."""
    root_path = request.scope.get("root_path", "")
    response.headers["Location"] = f"{root_path}{OPERATIONS_PATH}/{queued.id}"
    note_for_audit(request, target=queued.id, is_dry_run=is_dry_run)
    return OperationView.of(queued, root_path, lacks_worker=lacks_worker(app_state.database, queued))


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
    is_without_worker = lacks_worker(app_state.database, *page)
    return OperationList(
        operations=[OperationView.of(operation, root_path, lacks_worker=is_without_worker) for operation in page],
        next=next_page,
    )


@router.get("/{operation_id}", responses=_NOT_FOUND)
def operation(request: Request, app_state: AppStateDep, actor: WriterDep, operation_id: str) -> OperationView:
    """Show an operation's state, progress and result; a key without the scope admin sees imports only."""
    found = _visible(app_state, actor, operation_id)
    return _view(request, app_state, found)


@router.get("/{operation_id}/errors", responses=_NOT_FOUND)
def errors(
    request: Request,
    app_state: AppStateDep,
    actor: WriterDep,
    operation_id: str,
    query: Annotated[_ErrorQuery, Query()],
) -> RowErrorList:
    """List the rows of an import that failed and the files that were left out, in the order of the upload."""
    _visible(app_state, actor, operation_id)
    page = list_row_errors(app_state.database, operation_id, **query.model_dump())
    next_page = None
    if page.has_more:
        parameters = request.url.include_query_params(after=page.problems[-1][0]).query
        root_path = request.scope.get("root_path", "")
        next_page = f"{root_path}{OPERATIONS_PATH}/{operation_id}/errors?{parameters}"
    return RowErrorList.of(page, next_page)


@router.post("/{operation_id}:cancel", status_code=202, responses={**_NOT_FOUND, **_ENDED})
def cancel(request: Request, app_state: AppStateDep, actor: WriterDep, operation_id: str) -> OperationView:
    """Cancel an operation: at once if it is queued, within seconds if a worker has it. Idempotent."""
    _visible(app_state, actor, operation_id)
    return _view(request, app_state, cancel_operation(app_state.installation, operation_id))


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


def _visible(app_state: AppState, actor: Actor, operation_id: str) -> Operation:
    """Return an operation that the actor may see: a key that may write the catalogue sees imports.

    Raises OperationNotFound and InsufficientScope.
    """
    found = find_operation(app_state.database, operation_id)
    if found.kind not in IMPORT_KINDS and not actor.may(Scope.ADMIN):
        raise InsufficientScope(
            f"the key {actor.name!r} lacks the scope {Scope.ADMIN}, which operations of kind {found.kind} need"
        )
    return found


def _view(request: Request, app_state: AppState, found: Operation) -> OperationView:
    is_without_worker = lacks_worker(app_state.database, found)
    return OperationView.of(found, request.scope.get("root_path", ""), lacks_worker=is_without_worker)
