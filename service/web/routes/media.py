"""GET /media/NAME: the catalogue's images."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response

from service.storage.errors import MediaError
from service.storage.media import MediaName
from service.web.app_state import AppStateDep
from service.web.authorization import PUBLIC
from service.web.errors import ImageNotShown, MediaUnavailable
from service.web.schemas.problems import Problem

log = structlog.get_logger(__name__)

MEDIA_PATH = "/media"

# A browser cannot send a key for an image; its name is the hash of its bytes, and only what is on show has one.
router = APIRouter(tags=["media"], dependencies=[PUBLIC])

# The image was made by somebody else: a browser must take it for nothing but an image, and run nothing that may be
# hidden in it.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Content-Disposition": "inline",
}
# A name stands for its bytes for ever.
_HEADERS = {**SAFE_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No product on show has this image."},
    503: {"model": Problem, "description": "The image store does not answer."},
}


@router.head(f"{MEDIA_PATH}/{{name}}", include_in_schema=False)
@router.get(f"{MEDIA_PATH}/{{name}}", response_class=Response, responses=_PROBLEMS)
async def media(request: Request, app_state: AppStateDep, name: str) -> Response:
    """Return an image that results show; images of role `example` are never served."""
    media_name = MediaName.parse(name)
    if media_name is None or not app_state.live.shows(name):
        raise ImageNotShown(f"no product on show has the image {name[:80]!r}")
    return await image_response(request, app_state, media_name, _HEADERS)


async def image_response(
    request: Request, app_state: AppStateDep, media_name: MediaName, headers: Mapping[str, str]
) -> Response:
    """Answer with a stored image, or 304 where the client has it; raises MediaUnavailable."""
    etag = f'"{media_name.sha256}"'
    headers = {**headers, "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    try:
        content = await asyncio.to_thread(app_state.media_store.get, media_name)
    except MediaError as error:
        log.error("media_unavailable", name=str(media_name), reason=str(error))
        raise MediaUnavailable(f"the image {media_name} cannot be read at present; the log has the reason") from error
    return Response(content, media_type=media_name.media_type, headers=headers)
