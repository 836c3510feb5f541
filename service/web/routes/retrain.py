"""POST /admin/retrain and POST /v1/admin/releases: ask for a better model, or for a release of the catalogue."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from service.catalogue.archives import check
from service.catalogue.unpacking import max_unpacked_bytes
from service.operations.queueing import queue_with_archive
from service.operations.records import create_operation, require_idle
from service.operations.requests import BUILD, RETRAIN, BuildRequest, RetrainRequest, parse_build, parse_retrain
from service.storage.tables.operations import Operation
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import AdminDep
from service.web.bodies.reading import content_type_of, read_small_body
from service.web.bodies.uploads import receive_form, upload_folder
from service.web.errors import UnsupportedContentType
from service.web.middleware.audit import note_for_audit
from service.web.schemas.operations import OPERATIONS_PATH, OperationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem

router = APIRouter(tags=["admin"])

_MAX_BODY_BYTES = 256 * 1024
_REQUEST_FIELD, _ARCHIVE_FIELD = "request", "archive"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Names this request: sent again with the same key, it is answered and not done again.",
    ),
]

_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": OperationView, "description": "Queued; `Location` is where to look how far it is."},
    **KEY_PROBLEMS,
    408: {"model": Problem, "description": "The body paused for too long."},
    409: {"model": Problem, "description": "One is under way already; `operation_id` names it."},
    413: {"model": Problem, "description": "The archive is too large."},
    415: {"model": Problem, "description": "A content type that is not read here."},
    422: {"model": Problem, "description": "What is asked for, or the archive, cannot be used."},
    507: {"model": Problem, "description": "The disk is full; nothing is queued."},
}


def _body(model: type[RetrainRequest] | type[BuildRequest], *, has_archive: bool) -> dict[str, Any]:
    """Describe a body that the route reads itself."""
    schema = model.model_json_schema()
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if has_archive:
        fields = {
            _REQUEST_FIELD: {"type": "string", "description": "The JSON request."},
            _ARCHIVE_FIELD: {"type": "string", "format": "binary", "description": "A zip of new labelled images."},
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
    """Train on the labels, prove the result against the active release, and serve it if it is better."""
    content_type = content_type_of(request)
    if content_type == "multipart/form-data":
        queued = await _retrain_with_archive(request, app_state, actor.name, idempotency_key)
    else:
        if content_type not in ("", "application/json"):
            read = "application/json or multipart/form-data"
            raise UnsupportedContentType(f"{content_type!r} is not read here; send {read}")
        asked = parse_retrain(await read_small_body(request, _MAX_BODY_BYTES))
        queued = await asyncio.to_thread(
            _queue, app_state, RETRAIN, asked.model_dump(mode="json"), actor.name, idempotency_key
        )
    return _accepted(request, response, queued)


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
    """Build a release of the catalogue as it is, with the model there is, and serve it."""
    asked = parse_build(await read_small_body(request, _MAX_BODY_BYTES))
    queued = await asyncio.to_thread(
        _queue, app_state, BUILD, asked.model_dump(mode="json"), actor.name, idempotency_key
    )
    return _accepted(request, response, queued)


async def _retrain_with_archive(request: Request, app_state: AppState, actor: str, key: str | None) -> Operation:
    """Keep the archive for the operation, whose first step takes it in."""
    if key is None:
        # Gigabytes need not arrive to be told that there is work already.
        await asyncio.to_thread(_require_idle, app_state)
    async with upload_folder(app_state.settings) as folder:
        form = await receive_form(
            request,
            folder,
            limit=app_state.settings.max_upload_bytes,
            file_fields=(_ARCHIVE_FIELD,),
            text_fields=(_REQUEST_FIELD,),
        )
        asked = parse_retrain(form.fields.get(_REQUEST_FIELD, "{}").encode())
        archive = form.files[_ARCHIVE_FIELD]
        await asyncio.to_thread(check, archive, max_bytes=max_unpacked_bytes(app_state.settings))
        values = asked.model_dump(mode="json")
        return await asyncio.to_thread(
            partial(queue_with_archive, app_state.installation, archive, values, actor=actor, idempotency_key=key)
        )


def _require_idle(app_state: AppState) -> None:
    with app_state.database.reading() as session:
        require_idle(session, RETRAIN)


def _queue(app_state: AppState, kind: str, asked: Mapping[str, Any], actor: str, key: str | None) -> Operation:
    return create_operation(app_state.database, kind, asked, actor=actor, idempotency_key=key)[0]


def _accepted(request: Request, response: Response, queued: Operation) -> OperationView:
    root_path = request.scope.get("root_path", "")
    response.headers["Location"] = f"{root_path}{OPERATIONS_PATH}/{queued.id}"
    note_for_audit(request, target=queued.id)
    return OperationView.of(queued, root_path)
