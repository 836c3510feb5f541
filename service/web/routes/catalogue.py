"""/v1/admin/catalogue: import products and images, count them, remove them."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request

from service.catalogue.editing import delete_products
from service.catalogue.importing import import_path
from service.catalogue.queries import catalogue_counts
from service.web.app_state import AppStateDep
from service.web.authorization import WriterDep
from service.web.bodies.uploads import receive_archive, upload_folder
from service.web.middleware.audit import note_for_audit
from service.web.routes.media import IMAGES_NOT_STORED, hide_media_errors
from service.web.schemas.catalogue import CatalogueCountsView, ImportReportView, RemovedProduct
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.schemas.uploads import UPLOAD_PROBLEMS, UploadOptions

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/admin/catalogue", tags=["admin"])

_BINARY = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/zip": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["archive"], "properties": {"archive": _BINARY}}
            },
        },
    }
}


@router.post("", openapi_extra=_BODY, responses=UPLOAD_PROBLEMS)
async def post_catalogue(
    request: Request, app_state: AppStateDep, actor: WriterDep, options: Annotated[UploadOptions, Query()]
) -> ImportReportView:
    """Import a zip of any layout that `akin catalogue import` reads; the next release contains it."""
    async with upload_folder(app_state.settings) as folder:
        archive = await receive_archive(request, folder, app_state.settings)
        with hide_media_errors(IMAGES_NOT_STORED):
            report = await asyncio.to_thread(
                import_path,
                app_state.installation,
                archive,
                is_upload=True,
                dry_run=options.dry_run,
                actor=actor.name,
            )
    note_for_audit(request, is_dry_run=options.dry_run)
    log.info(
        "catalogue_imported",
        actor=actor.name,
        layout=report.layout,
        images_added=report.num_images_added,
        failed=len(report.errors),
        dry_run=report.dry_run,
    )
    return ImportReportView.of(report)


@router.get("", responses=KEY_PROBLEMS)
def get_catalogue(app_state: AppStateDep, _: WriterDep) -> CatalogueCountsView:
    """Count products and images."""
    return CatalogueCountsView(**asdict(catalogue_counts(app_state.database)))


# A path parameter, since an id may contain a slash.
@router.delete(
    "/{product_id:path}",
    responses={**KEY_PROBLEMS, 404: {"model": Problem, "description": "There is no such product."}},
)
def delete_product(app_state: AppStateDep, actor: WriterDep, product_id: str) -> RemovedProduct:
    """Remove a product with its images; the next release does not contain it."""
    num_images = delete_products(app_state.database, [product_id])
    log.info("product_removed", actor=actor.name, product_id=product_id, images=num_images)
    return RemovedProduct(product_id=product_id, num_images=num_images)
