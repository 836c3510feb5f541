"""/v1/admin/catalogue: import products and images, count them, remove them."""

from dataclasses import asdict
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response

from service.catalogue.editing import delete_products
from service.catalogue.queries import catalogue_counts
from service.operations.requests import ImportRequest
from service.web.app_state import AppStateDep
from service.web.authorization import WriterDep
from service.web.routes.imports import IMPORT_RESPONSES, UPLOAD_BODY, receive_import
from service.web.routes.operations import IdempotencyKey
from service.web.schemas.catalogue import CatalogueCountsView, RemovedProduct
from service.web.schemas.imports import ImportOptions
from service.web.schemas.operations import OperationView
from service.web.schemas.problems import KEY_PROBLEMS, Problem

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/admin/catalogue", tags=["admin"])


@router.post("", status_code=202, openapi_extra=UPLOAD_BODY, responses=IMPORT_RESPONSES)
async def post_catalogue(
    request: Request,
    response: Response,
    app_state: AppStateDep,
    actor: WriterDep,
    options: Annotated[ImportOptions, Query()],
    idempotency_key: IdempotencyKey = None,
) -> OperationView:
    """Queue the import of products, as `POST /v1/imports` with `kind=catalogue` does."""
    wanted = ImportRequest(kind="catalogue", **options.model_dump())
    return await receive_import(request, response, app_state, actor, wanted, idempotency_key)


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
