"""POST /v1/imports, and what the routes of the catalogue and of labels share with it."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.access.scopes import Actor
from service.errors import InvalidParameter, StorageFull
from service.operations.kinds import Kind
from service.operations.queueing import request_import
from service.operations.records import require_place
from service.operations.requests import ImportRequest, parse_import
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import WriterDep
from service.web.bodies.labels import COMMON_FIELDS
from service.web.bodies.uploads import ARCHIVE_FIELD, FILE_FIELD, ReceivedUpload, receive_upload, upload_folder
from service.web.routes.operations import ACCEPTED, IdempotencyKey, accepted
from service.web.schemas.imports import AnyImportOptions, LabelOptions
from service.web.schemas.operations import OperationView
from service.web.schemas.uploads import UPLOAD_PROBLEMS
from training.datasets.manifests import checked_label

router = APIRouter(tags=["admin"])

BINARY = {"type": "string", "format": "binary"}
# The handler reads the body itself, so FastAPI cannot derive this.
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{name: {"schema": BINARY} for name in ("application/zip", "text/csv", "application/x-ndjson")},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "One file: `archive`, a zip; or `file`, a zip or a table, by its extension.",
                    "properties": dict.fromkeys((ARCHIVE_FIELD, FILE_FIELD), BINARY),
                }
            },
        },
    }
}
IMPORT_RESPONSES: dict[int | str, dict[str, Any]] = {**ACCEPTED, **UPLOAD_PROBLEMS}


@router.post("/v1/imports", status_code=202, openapi_extra=UPLOAD_BODY, responses=IMPORT_RESPONSES)
async def post_import(
    request: Request,
    response: Response,
    app_state: AppStateDep,
    actor: WriterDep,
    options: Annotated[AnyImportOptions, Query()],
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Queue the import of an archive or a table; a worker performs it."""
    wanted = import_request(options, kind=options.kind)
    return await receive_import(request, response, app_state, actor, wanted, idempotency_key)


def import_request(options: LabelOptions, fields: Mapping[str, str] | None = None, *, kind: str) -> ImportRequest:
    """Return the request that the URL and the fields of a form make together.

    Raises InvalidOperation and InvalidParameter.
    """
    values = options.model_dump(exclude=set(COMMON_FIELDS))
    return parse_import({**values, **attribution_of(options, fields or {}), "kind": kind})


def attribution_of(options: LabelOptions, fields: Mapping[str, str]) -> dict[str, str]:
    """Return author and source of labels from the URL or the form, empty for none; raises InvalidParameter."""
    return {name: _url_or_form_value(name, getattr(options, name), fields.get(name)) for name in COMMON_FIELDS}


async def receive_import(
    request: Request,
    response: Response,
    app_state: AppState,
    actor: Actor,
    wanted: ImportRequest,
    idempotency_key: str | None,
) -> OperationView:
    """Receive an upload and queue its import."""
    await asyncio.to_thread(require_space, request, app_state, wanted.operation_kind, idempotency_key)
    async with upload_folder(app_state.settings) as folder:
        upload = await receive_upload(request, folder, app_state.settings)
        return await queue_import(request, response, app_state, actor, upload, wanted, idempotency_key)


def require_space(request: Request, app_state: AppState, kind: Kind, idempotency_key: str | None) -> None:
    """Refuse an upload before gigabytes have arrived, if its operation could not be queued or the disk has no room.

    Raises QueueFull and StorageFull.
    """
    if idempotency_key is None:
        require_place(app_state.database, kind)
    declared = request.headers.get("content-length", "")
    num_bytes = int(declared[:20]) if declared.isdecimal() else 0
    free_bytes = app_state.disk.free_bytes
    if free_bytes is not None and free_bytes < num_bytes + app_state.settings.min_free_bytes:
        raise StorageFull(
            f"the server's disk has no room for an upload of {num_bytes:,} bytes; free space, and send it again"
        )


async def queue_import(
    request: Request,
    response: Response,
    app_state: AppState,
    actor: Actor,
    upload: ReceivedUpload,
    wanted: ImportRequest,
    idempotency_key: str | None,
) -> OperationView:
    """Queue the import of a received upload, whose file the operation takes."""
    queued = await asyncio.to_thread(
        partial(
            request_import,
            app_state.installation,
            wanted,
            upload.path,
            actor=actor.name,
            idempotency_key=idempotency_key,
            may_move_upload=True,
        )
    )
    return await asyncio.to_thread(accepted, request, response, app_state, queued, is_dry_run=wanted.dry_run)


def _url_or_form_value(name: str, in_url: str | None, in_form: str | None) -> str:
    """Return the value of the URL or of the form; raises InvalidParameter if both have one, or if it is invalid."""
    if in_url and in_form:
        raise InvalidParameter(f"{name} is given in both the URL and the form; send it once")
    value = in_url or in_form
    try:
        return (checked_label(value, name) or "") if value else ""
    except ValueError as error:
        raise InvalidParameter(str(error)) from error
