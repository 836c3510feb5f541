"""/v1/admin/labels and /v1/admin/media: set labels of images, list them, and see the images."""

import asyncio
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.access.scopes import Actor
from service.catalogue.queries import is_image_stored
from service.labels.applying import LabelReport
from service.labels.intake import attribution, import_labels
from service.operations.kinds import LABELS
from service.storage.media import MediaName
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import WriterDep
from service.web.bodies.labels import COMMON_FIELDS, IMAGE_FIELD, IMAGE_FIELDS, ReceivedRows, receive_labels
from service.web.bodies.reading import FORM, JSON, content_type_of
from service.web.bodies.uploads import ARCHIVE_FIELD, FILE_FIELD, ReceivedUpload, upload_folder
from service.web.errors import ImageNotShown
from service.web.middleware.audit import note_for_audit
from service.web.routes.imports import (
    BINARY,
    IMPORT_RESPONSES,
    attribution_of,
    import_request,
    queue_import,
    require_space,
)
from service.web.routes.media import IMAGES_NOT_STORED, SAFE_HEADERS, hide_media_errors, image_response
from service.web.routes.operations import IdempotencyKey
from service.web.schemas.imports import LabelOptions
from service.web.schemas.labels import (
    ADMIN_MEDIA_PATH,
    MAX_PAGE,
    LabelCountsPage,
    LabelHistory,
    LabelPage,
    LabelReportView,
    LabelRowView,
    LabelView,
)
from service.web.schemas.operations import OperationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem

log = structlog.get_logger(__name__)

router = APIRouter(tags=["admin"])

_PATH = "/v1/admin/labels"
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such image."},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    **IMPORT_RESPONSES,
    202: {"model": OperationView, "description": "An archive or a table is queued; `Location` is its operation."},
}
_TEXT = {"type": "string"}
# The handler reads the body itself, so FastAPI cannot derive this.
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["labels"],
                    "properties": {"labels": {"type": "array", "items": LabelRowView.model_json_schema()}},
                }
            },
            **{name: {"schema": BINARY} for name in ("text/csv", "application/x-ndjson", "application/zip")},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "One file: `image` with product_id, label or both; `file`, a table; or `archive`.",
                    "properties": {
                        **dict.fromkeys((IMAGE_FIELD, FILE_FIELD, ARCHIVE_FIELD), BINARY),
                        **dict.fromkeys((*IMAGE_FIELDS, *COMMON_FIELDS), _TEXT),
                    },
                }
            },
        },
    }
}


class _Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="`next` of the previous page.")
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class _LabelQuery(_Page):
    label: str | None = None
    role: Literal["catalogue", "example"] | None = None
    state: Literal["train", "validation", "test"] | None = None


@router.post(_PATH, openapi_extra=_BODY, response_model=LabelReportView, responses=_RESPONSES)
async def post_labels(
    request: Request,
    response: Response,
    app_state: AppStateDep,
    actor: WriterDep,
    options: Annotated[LabelOptions, Query()],
    idempotency_key: IdempotencyKey = None,
) -> LabelReportView | Response:
    """Set labels of images, and add labelled images as examples; a bad row is reported and does not stop the others.

    JSON and a single image are applied at once. The import of an archive or a table is queued, as
    `POST /v1/imports` with `kind=labels` does.
    """
    if content_type_of(request) not in (JSON, FORM):
        await asyncio.to_thread(require_space, request, app_state, LABELS, idempotency_key)
    async with upload_folder(app_state.settings) as folder:
        received = await receive_labels(request, folder, app_state.settings)
        if isinstance(received, ReceivedUpload):
            wanted = import_request(options, received.fields, kind="labels")
            queued = await queue_import(request, response, app_state, actor, received, wanted, idempotency_key)
            headers = {"Location": response.headers["Location"]}
            return Response(queued.model_dump_json(), 202, headers, "application/json")
        report = await asyncio.to_thread(_apply, app_state, received, actor, options)
    note_for_audit(request, is_dry_run=options.dry_run)
    log.info(
        "labels_taken",
        actor=actor.name,
        added=report.num_added,
        changed=report.num_changed,
        failed=report.num_failed,
        dry_run=report.dry_run,
    )
    return LabelReportView.of(report)


@router.get(_PATH, responses=KEY_PROBLEMS)
def get_labels(
    request: Request, app_state: AppStateDep, _: WriterDep, query: Annotated[_LabelQuery, Query()]
) -> LabelPage:
    """List images with their labels and what training does with them, ordered by image id."""
    page = app_state.label_listing.page(**query.model_dump())
    return LabelPage(labels=[LabelView.of(facts, _media_root(request)) for facts in page.images], next=page.next)


@router.get(f"{_PATH}/counts", responses=KEY_PROBLEMS)
def get_label_counts(app_state: AppStateDep, _: WriterDep, query: Annotated[_Page, Query()]) -> LabelCountsPage:
    """Count images by label, role and what training does with them; classes are ordered by label."""
    return LabelCountsPage.of(app_state.label_listing.counts(after=query.after, limit=query.limit))


@router.get(f"{_PATH}/{{image_id}}", responses=_NOT_FOUND)
def get_label(request: Request, app_state: AppStateDep, _: WriterDep, image_id: str) -> LabelHistory:
    """Return the label of one image, and every change of it."""
    facts, changes = app_state.label_listing.show(image_id)
    return LabelHistory.with_changes(facts, changes, _media_root(request))


@router.head(f"{ADMIN_MEDIA_PATH}/{{name}}", include_in_schema=False)
@router.get(
    f"{ADMIN_MEDIA_PATH}/{{name}}",
    response_class=Response,
    responses={**_NOT_FOUND, 503: {"model": Problem, "description": "The image store does not respond."}},
)
async def get_any_image(request: Request, app_state: AppStateDep, _: WriterDep, name: str) -> Response:
    """Return any stored image, including examples."""
    media_name = MediaName.parse(name)
    if media_name is None or not await asyncio.to_thread(is_image_stored, app_state.database, media_name):
        raise ImageNotShown(f"no image is stored under the name {name[:80]!r}")
    # private: examples may not be published, so shared caches must not store them.
    headers = {**SAFE_HEADERS, "Cache-Control": "private, max-age=31536000, immutable"}
    return await image_response(request, app_state, media_name, headers)


def _apply(app_state: AppState, received: ReceivedRows, actor: Actor, options: LabelOptions) -> LabelReport:
    given = attribution_of(options, received.fields)
    labelled_by, source = attribution(**given, sender=actor.name)
    with hide_media_errors(IMAGES_NOT_STORED):
        return import_labels(
            app_state.installation,
            received.open,
            actor=labelled_by,
            source_name=source,
            is_upload=True,
            dry_run=options.dry_run,
        )


def _media_root(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}{ADMIN_MEDIA_PATH}"
