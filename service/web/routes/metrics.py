"""GET /metrics: the server's own numbers, for Prometheus."""

from fastapi import APIRouter, Request, Response

from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep

router = APIRouter(tags=["admin"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' format."}},
)
async def metrics(request: Request, app_state: AppStateDep, _: AdminDep) -> Response:
    """Give all metrics of this process, as text of the format that Prometheus asks for."""
    text, content_type = await app_state.metrics.scrape(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
