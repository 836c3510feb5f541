"""Releases as the database knows them: which there are, and which one is served."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from service.database import now
from service.errors import ActivationConflict, NoActiveRelease, ReleaseNotFound
from service.tables import Activation, Release


@dataclass(frozen=True, slots=True)
class ActiveRelease:
    """Which release is served, and the version of that decision."""

    release_id: str | None
    previous_release_id: str | None
    version: int
    activated_at: datetime | None


def record_release(session: Session, facts: Mapping[str, Any]) -> None:
    """Make a release that has been written known to all processes; it is not active by that."""
    session.add(
        Release(
            id=facts["release_id"],
            created_at=datetime.fromisoformat(facts["created_at"]),
            space_id=facts["space_id"],
            index_id=facts["index"]["index_id"],
            watermark=facts["watermark"],
            num_products=facts["num_products"],
            num_images=facts["num_images"],
        )
    )


def list_releases(session: Session) -> list[Release]:
    """Return all releases, the newest first."""
    return list(session.scalars(select(Release).order_by(Release.created_at.desc(), Release.id.desc())))


def active_release(session: Session) -> ActiveRelease:
    """Return which release is active, if any."""
    row = session.get(Activation, 1)
    assert row is not None
    return ActiveRelease(row.release_id, row.previous_release_id, row.version, row.activated_at)


def require_active_release(session: Session) -> str:
    """Return the id of the active release; raises NoActiveRelease with what to do."""
    release_id = active_release(session).release_id
    if release_id is None:
        raise NoActiveRelease("no release is active; run: akin index build")
    return release_id


def activate_release(session: Session, release_id: str, *, expected: ActiveRelease | None = None) -> bool:
    """Make a release the one that is served, by compare-and-set; return False when it was so already.

    `expected` is the state that the caller decided upon (default: the present one). Raises ReleaseNotFound, or
    ActivationConflict when the state has changed since.
    """
    if session.get(Release, release_id) is None:
        raise ReleaseNotFound(f"there is no release {release_id!r}; see: akin release list")
    current = expected or active_release(session)
    if current.release_id == release_id:
        return False
    done = session.execute(
        update(Activation)
        .where(Activation.slot == 1, Activation.version == current.version)
        .values(
            version=current.version + 1,
            release_id=release_id,
            previous_release_id=current.release_id,
            activated_at=now(),
        )
    )
    if cast(CursorResult[Any], done).rowcount != 1:
        raise ActivationConflict(f"another release was activated meanwhile; {release_id} was not; look and try again")
    return True
