"""/v1/admin/keys: make keys, look at them, rotate them, take them back."""

import asyncio
from datetime import timedelta
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response

from service.access.errors import InvalidKeyRequest
from service.access.keys import create_key, get_key, list_keys, revoke_key, rotate_key
from service.storage.database import now
from service.web.app_state import AppStateDep
from service.web.authorization import AdminDep
from service.web.middleware.audit import note_for_audit
from service.web.route_scopes import KeyFirstRoute
from service.web.schemas.keys import KEYS_PATH, KeyList, KeyRequest, KeyView, NewKey, RotateRequest
from service.web.schemas.problems import KEY_PROBLEMS, Problem

log = structlog.get_logger(__name__)

router = APIRouter(prefix=KEYS_PATH, tags=["admin"], route_class=KeyFirstRoute)

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    404: {"model": Problem, "description": "There is no such key."},
}
_NOT_MADE: dict[int | str, dict[str, Any]] = {
    **KEY_PROBLEMS,
    409: {"model": Problem, "description": "There is a key of that name."},
    422: {"model": Problem, "description": "A name, scope or time that cannot be."},
}
_NOT_ROTATED: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    422: {"model": Problem, "description": "It was revoked, or has expired and gets no later time."},
}
_NOT_REVOKED: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    409: {"model": Problem, "description": "It is the only one with the scope admin."},
}


@router.get("", responses=KEY_PROBLEMS)
def keys(app_state: AppStateDep, _: AdminDep) -> KeyList:
    """List all keys, revoked ones included, the oldest first."""
    with app_state.database.reading() as session:
        return KeyList(keys=[KeyView.of(row) for row in list_keys(session)])


@router.get("/{name}", responses=_NOT_FOUND)
def key(app_state: AppStateDep, _: AdminDep, name: str) -> KeyView:
    """Show a key, named by its name or its id."""
    with app_state.database.reading() as session:
        return KeyView.of(get_key(session, name))


@router.post("", status_code=201, responses=_NOT_MADE)
async def create(
    request: Request, response: Response, app_state: AppStateDep, actor: AdminDep, asked: KeyRequest
) -> NewKey:
    """Make a key; the answer shows it, this once."""
    expires_at = asked.expires_at
    if asked.expires_in_days is not None:
        if expires_at is not None:
            raise InvalidKeyRequest("expires_at and expires_in_days both say when the key ends; give one")
        expires_at = now() + timedelta(days=asked.expires_in_days)
    row, made = await asyncio.to_thread(
        create_key, app_state.database, asked.name, asked.scopes, actor=actor.name, expires_at=expires_at
    )
    app_state.key_ring.replace(row)
    note_for_audit(request, target=f"{row.name} ({', '.join(row.scopes)})")
    log.info("key_created", actor=actor.name, name=row.name, scopes=row.scopes)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}{KEYS_PATH}/{row.name}"
    _keep_from_caches(response)
    return NewKey.with_key(row, made)


@router.post("/{name}:rotate", responses=_NOT_ROTATED)
async def rotate(
    response: Response, app_state: AppStateDep, actor: AdminDep, name: str, asked: RotateRequest | None = None
) -> NewKey:
    """Give a key a new secret, and show it, this once; the old one is good for a while yet."""
    asked = asked or RotateRequest()
    row, made = await asyncio.to_thread(
        rotate_key,
        app_state.database,
        name,
        grace=timedelta(seconds=asked.grace_seconds),
        expires_at=asked.expires_at,
    )
    app_state.key_ring.replace(row)
    log.info("key_rotated", actor=actor.name, name=row.name, grace_seconds=asked.grace_seconds)
    _keep_from_caches(response)
    return NewKey.with_key(row, made)


@router.post("/{name}:revoke", responses=_NOT_REVOKED)
async def revoke(app_state: AppStateDep, actor: AdminDep, name: str) -> KeyView:
    """Take a key back for good; other servers refuse it within seconds. Doing so twice is doing it once."""
    row = await asyncio.to_thread(revoke_key, app_state.database, name, settings=app_state.settings)
    app_state.key_ring.replace(row)
    log.info("key_revoked", actor=actor.name, name=row.name)
    return KeyView.of(row)


def _keep_from_caches(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"
