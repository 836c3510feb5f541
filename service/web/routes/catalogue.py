"""/v1/admin/catalogue: import products and images, count them, remove them."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request

from service.catalogue.errors import InvalidImportSource, ProductNotFound
from service.catalogue.importing import import_catalogue
from service.catalogue.records import count_catalogue, remove_products
from service.catalogue.reports import ImportReport, write_import_report
from service.catalogue.sources import read_import_source
from service.catalogue.unpacking import unpack_upload
from service.web.app_state import AppState, AppStateDep
from service.web.authorization import WriterDep
from service.web.bodies.labels import receive_archive
from service.web.bodies.uploads import upload_folder
from service.web.middleware.audit import note_for_audit
from service.web.routes.labels import UPLOAD_PROBLEMS, UploadOptions, telling_of_the_store
from service.web.schemas.catalogue import CatalogueCountsView, ImportReportView, RemovedProduct
from service.web.schemas.problems import KEY_PROBLEMS, Problem

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
    """Import a zip of any layout that `akin catalogue import` reads; the next release shows it."""
    async with upload_folder(app_state.settings) as folder:
        archive = await receive_archive(request, folder, app_state.settings)
        report = await asyncio.to_thread(_import, app_state, archive, actor.name, options.dry_run)
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
    with app_state.database.reading() as session:
        return CatalogueCountsView(**asdict(count_catalogue(session)))


# A path, since an id may hold a slash.
@router.delete(
    "/{product_id:path}",
    responses={**KEY_PROBLEMS, 404: {"model": Problem, "description": "There is no such product."}},
)
def delete_product(app_state: AppStateDep, actor: WriterDep, product_id: str) -> RemovedProduct:
    """Remove a product with its images; the next release is without it."""
    # No id holds what cannot be printed, and some databases refuse to be asked for it.
    if not product_id.isprintable():
        raise ProductNotFound(f"the catalogue has no product {product_id!r:.80}")
    with app_state.database.transaction() as session:
        num_images = remove_products(session, [product_id])
    log.info("product_removed", actor=actor.name, product_id=product_id, images=num_images)
    return RemovedProduct(product_id=product_id, num_images=num_images)


def _import(app_state: AppState, archive: Path, actor: str, dry_run: bool) -> ImportReport:
    source = read_import_source(
        unpack_upload(archive, archive.with_name("unpacked"), app_state.settings), is_trusted=False
    )
    with telling_of_the_store():
        report = import_catalogue(
            source,
            app_state.database,
            app_state.media_store,
            limits=app_state.installation.limits,
            dry_run=dry_run,
            actor=actor,
        )
    if report.num_usable == 0:
        raise InvalidImportSource(f"nothing of the {source.layout} could be imported: {report.reasons()}")
    if report.errors and not dry_run:
        # The answer holds the first of them only.
        write_import_report(report, app_state.settings.reports_dir)
    return report
