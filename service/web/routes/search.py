"""POST /search: find the products most similar to an image."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.installation.pools import run_in
from service.serving.engine import SearchEngine, SearchResult
from service.serving.limits import DEFAULT_K, HIGHEST_SCORE, LOWEST_SCORE, MAX_K, MIN_K
from service.web.admission import unless_client_leaves
from service.web.app_state import AppStateDep, EngineDep
from service.web.authorization import SearchDep
from service.web.bodies.search import SearchQuery, receive_search_query
from service.web.routes.media import MEDIA_PATH
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.schemas.search import JSONQuery, SearchResponse, encode_response

router = APIRouter(tags=["search"])

K = Annotated[int | None, Query(ge=MIN_K, le=MAX_K, description=f"How many products (default {DEFAULT_K}).")]
MinScore = Annotated[
    float | None, Query(ge=LOWEST_SCORE, le=HIGHEST_SCORE, allow_inf_nan=False, description="Omit lower scores.")
]
# Encoding more hits takes over 2 ms, and other requests would wait for it in the event loop.
_MAX_HITS_IN_LOOP = 200

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
                        "k": {"type": "integer", "minimum": MIN_K, "maximum": MAX_K},
                        "min_score": {"type": "number", "minimum": LOWEST_SCORE, "maximum": HIGHEST_SCORE},
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
        503: (
            "No release is loaded yet, the maximum number of searches is in progress, or the search took too long: "
            "see `Retry-After`."
        ),
    }.items()
}


@router.post("/search", response_model=SearchResponse, openapi_extra=_REQUEST_BODY, responses=_PROBLEMS)
@router.post("/v1/search", response_model=SearchResponse, openapi_extra=_REQUEST_BODY, responses=_PROBLEMS)
async def search(
    request: Request, app_state: AppStateDep, _: SearchDep, engine: EngineDep, k: K = None, min_score: MinScore = None
) -> Response:
    """Rank catalogue products by visual similarity to the uploaded image."""
    admission = app_state.admission
    # Before the body is read, so that refused requests cost little.
    admission.require_slot()
    async with admission.arrivals.arriving() as arrived:
        limit = app_state.settings.max_image_bytes
        query = await receive_search_query(request, max_image_bytes=limit, k=k, min_score=min_score, arrived=arrived)
    with admission.place():
        result = await unless_client_leaves(request, _search(engine, app_state.pools.bodies, query))
    app_state.metrics.record_search(result.timing)
    media_root = f"{request.scope.get('root_path', '')}{MEDIA_PATH}"
    if len(result.hits) > _MAX_HITS_IN_LOOP:
        content = await run_in(app_state.pools.responses, encode_response, result, media_root)
    else:
        content = encode_response(result, media_root)
    return Response(content, media_type="application/json")


async def _search(
    engine: SearchEngine, bodies: Executor, received: SearchQuery | Callable[[], SearchQuery]
) -> SearchResult:
    # Parsing 13 MiB of JSON would stop all other requests of the process.
    query = received if isinstance(received, SearchQuery) else await run_in(bodies, received)
    return await engine.search(query.image_bytes, query.k, query.min_score)
