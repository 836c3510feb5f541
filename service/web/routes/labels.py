"""/v1/admin/labels and /v1/admin/media: set labels of images, list them, and see the images."""

import asyncio
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.catalogue.queries import is_image_stored
from service.errors import InvalidParameter
from service.labels.intake import import_labels
from service.storage.media import MediaName
from service.web.app_state import AppStateDep
from service.web.authorization import WriterDep
from service.web.bodies.labels import COMMON_FIELDS, IMAGE_FIELD, IMAGE_FIELDS, receive_labels
from service.web.bodies.uploads import ARCHIVE_FIELD, FILE_FIELD, upload_folder
from service.web.errors import ImageNotShown
from service.web.middleware.audit import note_for_audit
from service.web.routes.media import IMAGES_NOT_STORED, SAFE_HEADERS, hide_media_errors, image_response
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
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.schemas.uploads import UPLOAD_PROBLEMS, UploadOptions
from training.datasets.manifests import checked_label

log = structlog.get_logger(__name__)

router = APIRouter(tags=["admin"])

_PATH = "/v1/admin/labels"
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such image."},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
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
            "text/csv": _BINARY,
            "application/x-ndjson": _BINARY,
            "application/zip": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "One file: `image` with product_id, label or both; `file`, a table; or `archive`.",
                    "properties": {
                        **dict.fromkeys((IMAGE_FIELD, FILE_FIELD, ARCHIVE_FIELD), _BINARY["schema"]),
                        **dict.fromkeys((*IMAGE_FIELDS, *COMMON_FIELDS), _TEXT),
                    },
                }
            },
        },
    }
}


class _LabelOptions(UploadOptions):
    labelled_by: str | None = Field(
        None, description="Who set the labels, unless a row names somebody (default: the name of the key)."
    )
    source: str | None = Field(None, description="Where the labels come from, kept with each change (default: http).")


class _Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="`next` of the previous page.")
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class _LabelQuery(_Page):
    label: str | None = None
    role: Literal["catalogue", "example"] | None = None
    state: Literal["train", "validation", "test"] | None = None


@router.post(_PATH, openapi_extra=_BODY, responses=UPLOAD_PROBLEMS)
async def post_labels(
    request: Request, app_state: AppStateDep, actor: WriterDep, options: Annotated[_LabelOptions, Query()]
) -> LabelReportView:
    """Set labels of images, and add labelled images as examples; a bad row is reported and does not stop the others."""
    async with upload_folder(app_state.settings) as folder:
        received = await receive_labels(request, folder, app_state.settings)
        labelled_by, source = (
            _url_or_form_value(name, getattr(options, name), received.fields.get(name)) for name in COMMON_FIELDS
        )
        labelled_by, source = labelled_by or actor.name, source or "http"
        # The key is recorded even if the client names somebody else.
        source = source if labelled_by == actor.name else f"{source} (key {actor.name})"
        with hide_media_errors(IMAGES_NOT_STORED):
            report = await asyncio.to_thread(
                import_labels,
                app_state.installation,
                received.open,
                actor=labelled_by,
                source_name=source,
                is_upload=True,
                dry_run=options.dry_run,
            )
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


def _url_or_form_value(name: str, in_url: str | None, in_form: str | None) -> str | None:
    """Return the value of the URL or of the form; raises InvalidParameter if both have one, or if it is invalid."""
    if in_url and in_form:
        raise InvalidParameter(f"{name} is given in both the URL and the form; send it once")
    value = in_url or in_form
    try:
        return checked_label(value, name) if value else None
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def _media_root(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}{ADMIN_MEDIA_PATH}"
