"""POST /admin/retrain and POST /v1/admin/releases: request a retrain, or a release of the catalogue."""

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from service.operations.kinds import RETRAIN
from service.operations.queueing import request_build, request_retrain
from service.operations.records import require_place
from service.operations.requests import BuildRequest, RetrainRequest, parse_build, parse_retrain
from service.storage.tables.operations import Operation
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import AdminDep
from service.web.bodies.reading import content_type_of, json_text, read_json_body
from service.web.bodies.uploads import receive_form, upload_folder
from service.web.routes.operations import ACCEPTED, IdempotencyKey, accepted
from service.web.schemas.operations import OperationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem

router = APIRouter(tags=["admin"])

_MAX_BODY_BYTES = 256 * 1024
_REQUEST_FIELD, _ARCHIVE_FIELD = "request", "archive"

_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: ACCEPTED[202],
    **KEY_PROBLEMS,
    408: {"model": Problem, "description": "The body stopped arriving."},
    409: {"model": Problem, "description": "An operation of this kind is queued or running; `operation_id` is its id."},
    413: {"model": Problem, "description": "The archive is too large."},
    415: {"model": Problem, "description": "The content type is not supported."},
    422: {"model": Problem, "description": "The request or the archive is invalid."},
    507: {"model": Problem, "description": "The disk is full; nothing was queued."},
}


def _body(model: type[RetrainRequest] | type[BuildRequest], *, has_archive: bool) -> dict[str, Any]:
    """Describe the request body, which the route parses itself."""
    schema = model.model_json_schema()
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if has_archive:
        fields = {
            _REQUEST_FIELD: {"type": "string", "description": "The JSON request."},
            _ARCHIVE_FIELD: {
                "type": "string",
                "format": "binary",
                "description": "A zip of new labelled images.",
            },
        }
        content["multipart/form-data"] = {"schema": {"type": "object", "properties": fields, "required": ["archive"]}}
    return {"requestBody": {"content": content, "required": False}}


@router.post(
    "/v1/admin/retrain", status_code=202, responses=_RESPONSES, openapi_extra=_body(RetrainRequest, has_archive=True)
)
@router.post(
    "/admin/retrain", status_code=202, responses=_RESPONSES, openapi_extra=_body(RetrainRequest, has_archive=True)
)
async def retrain(
    request: Request,
    response: Response,
    app_state: AppStateDep,
    actor: AdminDep,
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Train on the labels, compare the model with the active release, and activate it if it is better."""
    content_type = content_type_of(request)
    if content_type == "multipart/form-data":
        queued = await _retrain_with_archive(request, app_state, actor.name, idempotency_key)
    else:
        supported = "application/json or multipart/form-data"
        wanted = parse_retrain(await read_json_body(request, _MAX_BODY_BYTES, supported=supported))
        queued = await asyncio.to_thread(
            partial(request_retrain, app_state.installation, wanted, actor=actor.name, idempotency_key=idempotency_key)
        )
    return await asyncio.to_thread(accepted, request, response, app_state, queued)


@router.post(
    "/v1/admin/releases", status_code=202, responses=_RESPONSES, openapi_extra=_body(BuildRequest, has_archive=False)
)
async def build(
    request: Request,
    response: Response,
    app_state: AppStateDep,
    actor: AdminDep,
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Build a release of the current catalogue with the active model, and activate it."""
    wanted = parse_build(await read_json_body(request, _MAX_BODY_BYTES))
    queued = await asyncio.to_thread(
        partial(request_build, app_state.installation, wanted, actor=actor.name, idempotency_key=idempotency_key)
    )
    return await asyncio.to_thread(accepted, request, response, app_state, queued)


async def _retrain_with_archive(request: Request, app_state: AppState, actor: str, key: str | None) -> Operation:
    """Receive the archive for the operation, whose first step imports it."""
    if key is None:
        # Refuse before gigabytes have arrived.
        await asyncio.to_thread(require_place, app_state.database, RETRAIN)
    async with upload_folder(app_state.settings) as folder:
        form = await receive_form(
            request,
            folder,
            limit=app_state.settings.max_upload_bytes,
            file_fields=(_ARCHIVE_FIELD,),
            text_fields=(_REQUEST_FIELD,),
        )
        return await asyncio.to_thread(
            partial(
                request_retrain,
                app_state.installation,
                parse_retrain(json_text(form.fields.get(_REQUEST_FIELD, "{}").encode()).encode()),
                form.files[_ARCHIVE_FIELD],
                actor=actor,
                idempotency_key=key,
                may_move_archive=True,
            )
        )
