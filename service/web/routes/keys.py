"""/v1/admin/keys: create, show, rotate and revoke keys."""

from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response

from service.access.keys import create_key, list_keys, revoke_key, rotate_key, show_key
from service.installation.pools import run_in
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.middleware.audit import note_for_audit
from service.web.schemas.keys import KEYS_PATH, KeyList, KeyRequest, KeyView, NewKey, RotateRequest
from service.web.schemas.problems import KEY_PROBLEMS, Problem
from service.web.scope_checks import KeyFirstRoute

log = structlog.get_logger(__name__)

router = APIRouter(prefix=KEYS_PATH, tags=["admin"], route_class=KeyFirstRoute)

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "No key has this name or id."},
}
_NOT_CREATED: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    409: {"model": Problem, "description": "A key of that name exists."},
    422: {"model": Problem, "description": "The name, a scope or the time of expiry is invalid."},
}
_NOT_ROTATED: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    422: {"model": Problem, "description": "The key is revoked, or has expired and gets no new time of expiry."},
}
_NOT_REVOKED: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    409: {"model": Problem, "description": "The key is the only one with the scope admin."},
}


@router.get("", responses=KEY_PROBLEMS)
def keys(
    app_state: AppStateDep,
    _: AdminDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many, oldest first.")] = 1000,
    after: Annotated[str | None, Query(description="`next` of the previous page.")] = None,
) -> KeyList:
    """List keys, revoked ones included, oldest first."""
    rows = list_keys(app_state.database, limit=limit + 1, after=after)
    page = rows[:limit]
    return KeyList(keys=[KeyView.of(row) for row in page], next=page[-1].name if len(rows) > limit else None)


@router.get("/{name}", responses=_NOT_FOUND)
def key(app_state: AppStateDep, _: AdminDep, name: str) -> KeyView:
    """Show a key, given by its name or id."""
    return KeyView.of(show_key(app_state.database, name))


@router.post("", status_code=201, responses=_NOT_CREATED)
async def create(
    request: Request, response: Response, app_state: AppStateDep, actor: AdminDep, asked: KeyRequest
) -> NewKey:
    """Create a key; only this response shows it."""
    change = partial(create_key, actor=actor.name, expires_at=asked.expiry())
    row, new_key = await run_in(app_state.pools.changes, change, app_state.database, asked.name, asked.scopes)
    app_state.key_ring.replace(row)
    note_for_audit(request, target=f"{row.name} ({', '.join(row.scopes)})")
    log.info("key_created", actor=actor.name, name=row.name, scopes=row.scopes)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}{KEYS_PATH}/{row.name}"
    _keep_from_caches(response)
    return NewKey.with_key(row, new_key)


@router.post("/{name}:rotate", responses=_NOT_ROTATED)
async def rotate(
    response: Response, app_state: AppStateDep, actor: AdminDep, name: str, asked: RotateRequest | None = None
) -> NewKey:
    """Replace the secret of a key; only this response shows it. The old secret stays valid for a while."""
    asked = asked or RotateRequest()
    change = partial(rotate_key, grace=timedelta(seconds=asked.grace_seconds), expires_at=asked.expires_at)
    row, new_key = await run_in(app_state.pools.changes, change, app_state.database, name)
    app_state.key_ring.replace(row)
    log.info("key_rotated", actor=actor.name, name=row.name, grace_seconds=asked.grace_seconds)
    _keep_from_caches(response)
    return NewKey.with_key(row, new_key)


@router.post("/{name}:revoke", responses=_NOT_REVOKED)
async def revoke(app_state: AppStateDep, actor: AdminDep, name: str) -> KeyView:
    """Revoke a key permanently; other servers refuse it within seconds. Idempotent."""
    change = partial(revoke_key, settings=app_state.settings)
    row = await run_in(app_state.pools.changes, change, app_state.database, name)
    app_state.key_ring.replace(row)
    log.info("key_revoked", actor=actor.name, name=row.name)
    return KeyView.of(row)


def _keep_from_caches(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"
