"""Rows of releases and activations; the functions take the session of their caller."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, and_, delete, or_, select, update
from sqlalchemy.orm import Session

from service.access.scopes import COMMAND_LINE
from service.releases.errors import ActivationConflict, NoActiveRelease, NoPreviousRelease, ReleaseNotFound
from service.storage.database import in_utc, now
from service.storage.tables.operations import ACTIVE_STATES, QUEUED, Operation
from service.storage.tables.releases import Activation, ActivationEvent, Release

_MAX_REASON_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ActiveRelease:
    """The present activation; `version` counts activations and rollbacks."""

    release_id: str | None
    previous_release_id: str | None
    version: int
    activated_at: datetime | None


@dataclass(frozen=True, slots=True)
class NeededByOperations:
    """Releases and embedding spaces that queued and running operations need.

    `knows_spaces` is False while a running operation has not recorded the space that it embeds in.
    """

    release_ids: frozenset[str]
    space_ids: frozenset[str]
    knows_spaces: bool


def record_release(session: Session, facts: Mapping[str, Any], operation_id: str | None = None) -> None:
    """Record a release that has been written, without activating it.

    Idempotent: an operation that resumes may record its release again.
    """
    known = session.get(Release, facts["release_id"])
    if known is not None:
        known.operation_id = known.operation_id or operation_id
        return
    session.add(
        Release(
            id=facts["release_id"],
            created_at=datetime.fromisoformat(facts["created_at"]),
            space_id=facts["space_id"],
            index_id=facts["index"]["index_id"],
            watermark=facts["watermark"],
            num_products=facts["num_products"],
            num_images=facts["num_images"],
            operation_id=operation_id,
        )
    )


def select_releases(
    session: Session, *, with_retired: bool = True, limit: int | None = None, before: str | None = None
) -> list[Release]:
    """Return releases, newest first; the files of a retired one are being removed.

    `before` is the id of the last release of the previous page. Raises ReleaseNotFound if it is unknown.
    """
    query = select(Release).order_by(Release.created_at.desc(), Release.id.desc()).limit(limit)
    if before is not None:
        last = session.get(Release, before)
        if last is None:
            raise ReleaseNotFound(f"there is no release {before!r:.80}; begin with the first page again")
        is_same_time = and_(Release.created_at == last.created_at, Release.id < last.id)
        query = query.where(or_(Release.created_at < last.created_at, is_same_time))
    return list(session.scalars(query if with_retired else query.where(Release.retired_at.is_(None))))


def require_release(session: Session, release_id: str) -> Release:
    """Return a release that can be activated; raises ReleaseNotFound if there is none or it was retired."""
    # populate_existing: under the lock of the activation, a retirement committed before must be seen.
    release = session.get(Release, release_id, populate_existing=True)
    if release is None:
        raise ReleaseNotFound(f"there is no release {release_id!r}; see: akin release list")
    if release.retired_at is not None:
        raise ReleaseNotFound(
            f"release {release_id!r} was retired at {in_utc(release.retired_at):%Y-%m-%d %H:%M} UTC and its files are "
            "removed; choose another: akin release list"
        )
    return release


def active_release(session: Session) -> ActiveRelease:
    """Return the present activation; its `release_id` is None before the first one."""
    row = session.get(Activation, 1)
    assert row is not None
    return _activation_of(row)


def require_active_release(session: Session) -> str:
    """Return the id of the active release; raises NoActiveRelease."""
    release_id = active_release(session).release_id
    if release_id is None:
        raise NoActiveRelease("no release is active; run: akin index build")
    return release_id


def activate_release(
    session: Session,
    release_id: str,
    *,
    expected: ActiveRelease | None = None,
    actor: str = COMMAND_LINE,
    reason: str = "",
    operation_id: str | None = None,
) -> bool:
    """Activate a release by compare-and-set and record an ActivationEvent; return False if it was active before.

    `expected` is the activation that the caller's decision is based on, by default the present one. Raises
    ReleaseNotFound, and ActivationConflict if the activation has changed since.
    """
    # Lock before checking the release: once the lock is held, the release cannot be retired.
    present = _lock_activation(session)
    require_release(session, release_id)
    current = expected or present
    if current.release_id == release_id:
        return False
    activated_at = now()
    updated = session.execute(
        update(Activation)
        .where(Activation.slot == 1, Activation.version == current.version)
        .values(
            version=current.version + 1,
            release_id=release_id,
            previous_release_id=current.release_id,
            activated_at=activated_at,
        )
    )
    if cast(CursorResult[Any], updated).rowcount != 1:
        raise ActivationConflict(
            f"another release was activated in the meantime, so {release_id} was not; check the active release and try "
            "again"
        )
    session.add(
        ActivationEvent(
            version=current.version + 1,
            release_id=release_id,
            previous_release_id=current.release_id,
            activated_at=activated_at,
            activated_by=actor,
            reason=reason[:_MAX_REASON_CHARACTERS],
            operation_id=operation_id,
        )
    )
    return True


def rollback_target(active: ActiveRelease, to: str | None = None) -> str:
    """Return the release that a rollback activates: `to`, or the previous one; raises NoPreviousRelease."""
    target = to or active.previous_release_id
    if target is None:
        raise NoPreviousRelease(
            f"no release was active before {active.release_id}; choose one by its id: akin release list"
            if active.release_id
            else "no release is active, and none was before; build one: akin index build"
        )
    return target


def select_activations(
    session: Session, *, release_id: str | None = None, limit: int = 100, before: int | None = None
) -> list[ActivationEvent]:
    """Return activations and rollbacks, newest first; `release_id` restricts them to one release.

    `before` is the version of the last one of the previous page.
    """
    query = select(ActivationEvent).order_by(ActivationEvent.version.desc()).limit(limit)
    if before is not None:
        query = query.where(ActivationEvent.version < before)
    if release_id is not None:
        query = query.where(ActivationEvent.release_id == release_id)
    return list(session.scalars(query))


def activation_of_operation(session: Session, operation_id: str) -> ActivationEvent | None:
    """Return the activation that an operation has made, so that it does not make a second one."""
    query = select(ActivationEvent).where(ActivationEvent.operation_id == operation_id)
    return session.scalars(query.order_by(ActivationEvent.version.desc()).limit(1)).first()


def needed_by_operations(session: Session) -> NeededByOperations:
    """Return what queued and running operations name in their requests and results."""
    operations = session.execute(
        select(Operation.state, Operation.request, Operation.result).where(Operation.state.in_(ACTIVE_STATES))
    )
    release_ids: set[str] = set()
    space_ids: set[str] = set()
    knows_spaces = True
    for state, request, result in operations:
        for named in (request, result):
            release_ids |= _values_of(named, "release_id")
        spaces = _values_of(result, "space_id")
        space_ids |= spaces
        # A running operation may already embed in a space that its result does not name yet.
        knows_spaces &= state == QUEUED or bool(spaces)
    return NeededByOperations(frozenset(release_ids), frozenset(space_ids), knows_spaces)


def mark_retired(session: Session, release_id: str, protected: Collection[str]) -> bool:
    """Mark a release as retired, so that it cannot be activated; False if it is active, previous or protected."""
    # An activation takes the same lock, so it sees this mark or this sees the activation.
    active = _lock_activation(session)
    if release_id in {active.release_id, active.previous_release_id, *protected}:
        return False
    release = session.get(Release, release_id, populate_existing=True)
    if release is None:
        return False
    release.retired_at = release.retired_at or now()
    return True


def forget_release(session: Session, release_id: str) -> None:
    """Delete the row of a retired release, as the last step of its removal; its activations are kept."""
    session.execute(delete(Release).where(Release.id == release_id, Release.retired_at.is_not(None)))


def _lock_activation(session: Session) -> ActiveRelease:
    """Return the present activation, locked until the transaction ends (SQLite locks the whole database)."""
    row = session.get(Activation, 1, with_for_update=True, populate_existing=True)
    assert row is not None
    return _activation_of(row)


def _activation_of(row: Activation) -> ActiveRelease:
    return ActiveRelease(row.release_id, row.previous_release_id, row.version, row.activated_at)


def _values_of(named: Mapping[str, object], ending: str) -> set[str]:
    """Return the string values of all keys, nested ones included, that end in `ending`."""
    found: set[str] = set()
    for name, value in named.items():
        if isinstance(value, Mapping):
            found |= _values_of(value, ending)
        elif isinstance(value, str) and value and name.endswith(ending):
            found.add(value)
    return found
