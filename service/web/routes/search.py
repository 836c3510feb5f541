"""POST /search: find the products most similar to an image."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from service.serving.engine import SearchEngine, SearchResult
from service.serving.limits import DEFAULT_K, MAX_K
from service.web.admission import unless_client_leaves
from service.web.app_state import AppStateDep, EngineDep
from service.web.authorization import SearchDep
from service.web.bodies.search import SearchQuery, receive_search_query
from service.web.routes.media import MEDIA_PATH
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.schemas.search import JSONQuery, SearchResponse

router = APIRouter(tags=["search"])

K = Annotated[int | None, Query(ge=1, le=MAX_K, description=f"How many products (default {DEFAULT_K}).")]
MinScore = Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False, description="Omit lower scores.")]

_IMAGE = {"schema": {"type": "string", "format": "binary"}}
# The handler reads the body itself, so FastAPI cannot derive this part of the OpenAPI document.
_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "k": {"type": "integer", "minimum": 1, "maximum": MAX_K},
                        "min_score": {"type": "number", "minimum": -1, "maximum": 1},
                    },
                }
            },
            "image/*": _IMAGE,
            "application/json": {"schema": JSONQuery.model_json_schema()},
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = KEY_PROBLEMS | {
    status: {"model": Problem, "description": description}
    for status, description in {
        408: "The body did not arrive in time.",
        413: "The body or the image is too large.",
        415: "Neither an image in a supported format nor a supported content type.",
        422: "The request or the image cannot be used.",
        503: "No release is loaded yet, or the maximum number of searches is in progress: see `Retry-After`.",
    }.items()
}


@router.post("/search", response_model=SearchResponse, openapi_extra=_REQUEST_BODY, responses=_PROBLEMS)
@router.post("/v1/search", response_model=SearchResponse, openapi_extra=_REQUEST_BODY, responses=_PROBLEMS)
async def search(
    request: Request, app_state: AppStateDep, _: SearchDep, engine: EngineDep, k: K = None, min_score: MinScore = None
) -> SearchResponse:
    """Rank catalogue products by visual similarity to the uploaded image."""
    admission = app_state.admission
    # Before the body is read, so that refused requests cost little.
    admission.require_slot()
    async with admission.arrivals.arriving() as arrived:
        limit = app_state.settings.max_image_bytes
        decode = await receive_search_query(request, max_image_bytes=limit, k=k, min_score=min_score, arrived=arrived)
    with admission.place():
        result = await unless_client_leaves(request, _search(engine, app_state.body_decoders, decode))
    app_state.metrics.record_search(result.timing)
    return SearchResponse.of(result, f"{request.scope.get('root_path', '')}{MEDIA_PATH}")


async def _search(
    engine: SearchEngine, decoders: ThreadPoolExecutor, decode: Callable[[], SearchQuery]
) -> SearchResult:
    # Parsing 13 MiB of JSON would stop all other requests of the process.
    query = await asyncio.get_running_loop().run_in_executor(decoders, decode)
    return await engine.search(query.image_bytes, query.k, query.min_score)
