"""GET /: the search page."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.templating import Jinja2Templates

from service.serving.limits import MAX_K
from service.web.app_state import AppStateDep
from service.web.authorization import PUBLIC
from training.datasets.files import IMAGE_ENDINGS

STATIC_DIR = Path(__file__).parents[1] / "pages" / "static"
_TEMPLATES = Jinja2Templates(Path(__file__).parents[1] / "pages" / "templates")
_CONTENT_SECURITY_POLICY = "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"

router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])


@router.head("/")
@router.get("/")
async def start_page(request: Request, app_state: AppStateDep) -> Response:
    """Show the search page."""
    release = app_state.live.current_release()
    context = {
        "root_path": request.scope.get("root_path", ""),
        "release": release.facts if release else None,
        "refusal": app_state.live.refusal,
        "image_endings": ",".join(sorted(IMAGE_ENDINGS)),
        "max_k": MAX_K,
        "max_image_bytes": app_state.settings.max_image_bytes,
        "needs_key": not app_state.is_search_public,
    }
    headers = {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "Referrer-Policy": "same-origin"}
    return _TEMPLATES.TemplateResponse(request, "index.html", context, headers=headers)
