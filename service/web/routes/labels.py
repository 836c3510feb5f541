"""/v1/admin/labels and /v1/admin/media: say what images show, and look at what was said."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.catalogue.reports import write_import_report
from service.errors import InvalidParameter
from service.labels.applying import LabelReport, apply_labels
from service.labels.errors import InvalidLabels
from service.labels.listing import LabelOverviews, count_labels, is_stored, list_labels, release_watermark, show_label
from service.storage.errors import MediaError
from service.storage.media import MediaName
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import WriterDep
from service.web.bodies.labels import COMMON_FIELDS, ReceivedLabels, receive_labels
from service.web.bodies.uploads import upload_folder
from service.web.errors import ImageNotShown, MediaUnavailable
from service.web.middleware.audit import note_for_audit
from service.web.routes.media import SAFE_HEADERS, image_response
from service.web.schemas.labels import (
    MAX_PAGE,
    ClassCountsView,
    LabelCounts,
    LabelCountsPage,
    LabelHistory,
    LabelPage,
    LabelReportView,
    LabelRowView,
    LabelView,
)
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from training.datasets.manifests import checked_label

log = structlog.get_logger(__name__)

ADMIN_MEDIA_PATH = "/v1/admin/media"

router = APIRouter(prefix="/v1/admin", tags=["admin"])

UPLOAD_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    408: {"model": Problem, "description": "The body paused for too long."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "A content type that is not read here."},
    422: {"model": Problem, "description": "The body or archive cannot be used, or none of its rows; nothing changed."},
    503: {"model": Problem, "description": "The image store or the database does not answer."},
    507: {"model": Problem, "description": "The disk is full; rows that were written before are kept whole."},
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such image."},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TEXT = {"type": "string"}
# The handler reads the body itself, so the document is told what it takes.
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
                        **{name: {"type": "string", "format": "binary"} for name in ("image", "file", "archive")},
                        **dict.fromkeys(("product_id", "label", *COMMON_FIELDS), _TEXT),
                    },
                }
            },
        },
    }
}


class UploadOptions(BaseModel):
    """What stands in the address of an upload; an unknown name is refused, for a misspelt dry_run would write."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="Read and check everything, write nothing.")


class _LabelOptions(UploadOptions):
    labelled_by: str | None = Field(None, description="Who labelled, where a row does not say (default: the key).")
    source: str | None = Field(None, description="On what ground, kept with each change (default: http).")


class _Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class _LabelQuery(_Page):
    label: str | None = None
    role: Literal["catalogue", "example"] | None = None
    state: Literal["train", "validation", "test"] | None = None


@router.post("/labels", openapi_extra=_BODY, responses=UPLOAD_PROBLEMS)
async def post_labels(
    request: Request, app_state: AppStateDep, actor: WriterDep, options: Annotated[_LabelOptions, Query()]
) -> LabelReportView:
    """Say what images show, and add labelled ones as examples; a bad row is reported and does not stop the others."""
    async with upload_folder(app_state.settings) as folder:
        received = await receive_labels(request, folder, app_state.settings)
        said = {name: _said_once(name, getattr(options, name), received.fields.get(name)) for name in COMMON_FIELDS}
        who = said["labelled_by"] or actor.name
        why = said["source"] or "http"
        # Whose key it was stays known, whoever the client says has labelled.
        source = why if who == actor.name else f"{why} (key {actor.name})"
        report = await asyncio.to_thread(_apply, app_state, received, who, source, options.dry_run)
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


@router.get("/labels", responses=KEY_PROBLEMS)
def get_labels(
    request: Request, app_state: AppStateDep, _: WriterDep, query: Annotated[_LabelQuery, Query()]
) -> LabelPage:
    """List images with their labels and what training does with them, in the order of their ids."""
    with app_state.database.reading() as session:
        overview = _overviews(request).of(session)
        found, following = list_labels(session, overview, **query.model_dump())
    return LabelPage(labels=[LabelView.of(facts, _media_root(request)) for facts in found], next=following)


@router.get("/labels/counts", responses=KEY_PROBLEMS)
def get_label_counts(
    request: Request, app_state: AppStateDep, _: WriterDep, query: Annotated[_Page, Query()]
) -> LabelCountsPage:
    """Count images by label, role and what training does with them, classes in the order of their labels."""
    with app_state.database.reading() as session:
        overview = _overviews(request).of(session)
        total, classes = count_labels(session, overview)
        shown = release_watermark(session)
    labels = [label for label in classes if query.after is None or label > query.after]
    page = labels[: query.limit]
    return LabelCountsPage(
        watermark=overview.watermark,
        release_watermark=shown,
        num_classes=len(classes),
        total=LabelCounts.of(total),
        classes=[ClassCountsView.of_class(label, classes[label]) for label in page],
        next=page[-1] if len(labels) > len(page) else None,
    )


@router.get("/labels/{image_id}", responses=_NOT_FOUND)
def get_label(request: Request, app_state: AppStateDep, _: WriterDep, image_id: str) -> LabelHistory:
    """Return what one image shows, and every change of its label."""
    with app_state.database.reading() as session:
        facts, changes = show_label(session, _overviews(request).of(session), image_id)
    return LabelHistory.with_changes(facts, changes, _media_root(request))


@router.head("/media/{name}", include_in_schema=False)
@router.get(
    "/media/{name}",
    response_class=Response,
    responses={**_NOT_FOUND, 503: {"model": Problem, "description": "The image store does not answer."}},
)
async def get_any_image(request: Request, app_state: AppStateDep, _: WriterDep, name: str) -> Response:
    """Return any stored image, examples too."""
    media_name = MediaName.parse(name)
    if media_name is None or not await asyncio.to_thread(_is_stored, app_state, media_name):
        raise ImageNotShown(f"no image is stored under the name {name[:80]!r}")
    # Of examples the shop may have no right to show; no cache between here and the browser keeps them.
    headers = {**SAFE_HEADERS, "Cache-Control": "private, max-age=31536000, immutable"}
    return await image_response(request, app_state, media_name, headers)


@contextmanager
def telling_of_the_store() -> Iterator[None]:
    """Tell a client that images cannot be stored; where they should be is nothing for it."""
    try:
        yield
    except MediaError as error:
        log.error("media_unavailable", reason=str(error))
        raise MediaUnavailable("images cannot be stored at present; the log has the reason") from error


def _apply(app_state: AppState, received: ReceivedLabels, actor: str, source_name: str, dry_run: bool) -> LabelReport:
    source = received.open()
    with telling_of_the_store():
        report = apply_labels(app_state.installation, source, actor=actor, source_name=source_name, dry_run=dry_run)
    if report.num_usable == 0:
        reasons = report.reasons() or "it has no rows"
        raise InvalidLabels(f"nothing of the {source.layout} could be used: {reasons}")
    if report.errors and not dry_run:
        # The answer holds the first of them only.
        write_import_report(report, app_state.settings.reports_dir, "labels")
    return report


def _said_once(name: str, in_address: str | None, in_form: str | None) -> str | None:
    """Return what the address or the form says; raises InvalidParameter for both, or for what is no such text."""
    if in_address and in_form:
        raise InvalidParameter(f"{name} stands in the address and in the form; give it once")
    value = in_address or in_form
    try:
        return checked_label(value, name) if value else None
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def _overviews(request: Request) -> LabelOverviews:
    """Return the one overview of this application, made when it is first asked for."""
    state = request.app.state
    if not hasattr(state, "label_overviews"):
        state.label_overviews = LabelOverviews()
    found: LabelOverviews = state.label_overviews
    return found


def _media_root(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}{ADMIN_MEDIA_PATH}"


def _is_stored(app_state: AppState, name: MediaName) -> bool:
    with app_state.database.reading() as session:
        return is_stored(session, name)
