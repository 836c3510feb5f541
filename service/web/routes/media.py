"""GET /media/NAME: the catalogue's images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response

from service.installation.pools import run_in
from service.storage.errors import MediaError
from service.storage.media import MediaName
from service.web.app_state import AppStateDep
from service.web.authorization import PUBLIC
from service.web.conditional import is_not_modified
from service.web.errors import ImageNotShown, MediaUnavailable
from service.web.schemas.problems import Problem

log = structlog.get_logger(__name__)

MEDIA_PATH = "/media"
IMAGES_NOT_STORED = "images cannot be stored at present; the server's log has the reason"

# Public, since a browser cannot send a key for an <img>. Names are hashes, and only images of the catalogue are served.
router = APIRouter(tags=["media"], dependencies=[PUBLIC])

# Images are untrusted content: browsers must treat them as images only, and never run scripts in them.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Content-Disposition": "inline",
}
# The bytes under a name never change.
_HEADERS = {**SAFE_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No product of the catalogue has this image."},
    503: {"model": Problem, "description": "The image store or the database does not respond."},
}


@router.head(f"{MEDIA_PATH}/{{name}}", include_in_schema=False)
@router.get(f"{MEDIA_PATH}/{{name}}", response_class=Response, responses=_PROBLEMS)
async def media(request: Request, app_state: AppStateDep, name: str) -> Response:
    """Return an image of a search result of any server; images of role `example` are not served."""
    media_name = MediaName.parse(name)
    if media_name is None or not await app_state.shown_images.shows(media_name):
        raise ImageNotShown(f"no product of the catalogue has the image {name[:80]!r}")
    return await image_response(request, app_state, media_name, _HEADERS)


async def image_response(
    request: Request, app_state: AppStateDep, media_name: MediaName, headers: Mapping[str, str]
) -> Response:
    """Respond with a stored image, or 304 if the client has it; raises MediaUnavailable."""
    headers = {**headers, "ETag": f'"{media_name.sha256}"'}
    if is_not_modified(request.headers, media_name.sha256):
        return Response(status_code=304, headers=headers)
    with hide_media_errors(f"the image {media_name} cannot be read at present; the server's log has the reason"):
        content = await run_in(app_state.pools.images, app_state.media_store.get, media_name)
    return Response(content, media_type=media_name.media_type, headers=headers)


@contextmanager
def hide_media_errors(message: str) -> Iterator[None]:
    """Log a MediaError and raise MediaUnavailable in its place: the store's address is not disclosed to clients."""
    try:
        yield
    except MediaError as error:
        log.error("media_unavailable", reason=str(error))
        raise MediaUnavailable(message) from error
