"""GET /metrics: the server's metrics for Prometheus."""

from fastapi import APIRouter, Request, Response

from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep

router = APIRouter(tags=["admin"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "Prometheus or OpenMetrics text format.",
        }
    },
)
async def metrics(request: Request, app_state: AppStateDep, _: AdminDep) -> Response:
    """Return all metrics of this process in the format that the header `Accept` selects."""
    text, content_type = await app_state.metrics.scrape(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
