"""Releases as the database knows them: which there are, which one is served, and how that came about."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session

from service.access.scopes import COMMAND_LINE
from service.releases.errors import ActivationConflict, NoActiveRelease, NoPreviousRelease, ReleaseNotFound
from service.storage.database import in_utc, now
from service.storage.tables.operations import QUEUED, RUNNING, Operation
from service.storage.tables.releases import Activation, ActivationEvent, Release

_REASON_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class ActiveRelease:
    """Which release is served, and the version of that decision."""

    release_id: str | None
    previous_release_id: str | None
    version: int
    activated_at: datetime | None


@dataclass(frozen=True, slots=True)
class NeededByOperations:
    """What operations under way rely on; `knows_spaces`: each that runs has named the space it embeds in."""

    release_ids: frozenset[str]
    space_ids: frozenset[str]
    knows_spaces: bool


def record_release(session: Session, facts: Mapping[str, Any], operation_id: str | None = None) -> None:
    """Make a release that has been written known to all processes; it is not active by that.

    One that is known already stays as it is: an operation that was cut off publishes again what it published.
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


def list_releases(session: Session, *, with_retired: bool = True) -> list[Release]:
    """Return all releases, the newest first; a retired one is on its way out, its files are being removed."""
    query = select(Release).order_by(Release.created_at.desc(), Release.id.desc())
    return list(session.scalars(query if with_retired else query.where(Release.retired_at.is_(None))))


def require_release(session: Session, release_id: str) -> Release:
    """Return a release that can be served; raises ReleaseNotFound, saying so where it was retired."""
    # Read anew: whoever holds the lock of the activation must see what was committed before.
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
    """Return which release is active, if any."""
    row = session.get(Activation, 1)
    assert row is not None
    return _state_of(row)


def require_active_release(session: Session) -> str:
    """Return the id of the active release; raises NoActiveRelease with what to do."""
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
    """Make a release the one that is served, by compare-and-set; return False when it was so already.

    `expected` is the state that the caller decided upon (default: the present one). Each change leaves an
    ActivationEvent. Raises ReleaseNotFound, or ActivationConflict when the state has changed since.
    """
    # The lock first, and only then a look at the release: it cannot be retired from here on.
    present = _lock_activation(session)
    require_release(session, release_id)
    current = expected or present
    if current.release_id == release_id:
        return False
    moment = now()
    done = session.execute(
        update(Activation)
        .where(Activation.slot == 1, Activation.version == current.version)
        .values(
            version=current.version + 1,
            release_id=release_id,
            previous_release_id=current.release_id,
            activated_at=moment,
        )
    )
    if cast(CursorResult[Any], done).rowcount != 1:
        raise ActivationConflict(f"another release was activated meanwhile; {release_id} was not; look and try again")
    session.add(
        ActivationEvent(
            version=current.version + 1,
            release_id=release_id,
            previous_release_id=current.release_id,
            activated_at=moment,
            activated_by=actor,
            reason=reason[:_REASON_LENGTH],
            operation_id=operation_id,
        )
    )
    return True


def rollback_target(active: ActiveRelease, to: str | None = None) -> str:
    """Return the release that a rollback leads to: `to`, or the one that was active before; NoPreviousRelease."""
    target = to or active.previous_release_id
    if target is None:
        raise NoPreviousRelease(
            f"no release was active before {active.release_id}; choose one by its id: akin release list"
            if active.release_id
            else "no release is active, and none was before; build one: akin index build"
        )
    return target


def roll_back(
    session: Session,
    *,
    actor: str = COMMAND_LINE,
    reason: str = "",
    to: str | None = None,
    expected: ActiveRelease | None = None,
) -> str:
    """Activate the release that was active before the present one, or `to`; return its id.

    What is left becomes the previous one: rolling back twice ends where it began. Raises NoPreviousRelease,
    ReleaseNotFound, ActivationConflict.
    """
    target = rollback_target(expected or active_release(session), to)
    activate_release(session, target, expected=expected, actor=actor, reason=reason)
    return target


def list_activations(session: Session, *, release_id: str | None = None, limit: int = 100) -> list[ActivationEvent]:
    """Return activations and rollbacks, the newest first; of one release only where its id is given."""
    query = select(ActivationEvent).order_by(ActivationEvent.version.desc()).limit(limit)
    if release_id is not None:
        query = query.where(ActivationEvent.release_id == release_id)
    return list(session.scalars(query))


def activation_of_operation(session: Session, operation_id: str) -> ActivationEvent | None:
    """Return the activation that an operation made, if it has: so that it makes none twice."""
    query = select(ActivationEvent).where(ActivationEvent.operation_id == operation_id)
    return session.scalars(query.order_by(ActivationEvent.version.desc()).limit(1)).first()


def needed_by_operations(session: Session) -> NeededByOperations:
    """Return what operations that are queued or under way name in their requests and results."""
    operations = session.execute(
        select(Operation.state, Operation.request, Operation.result).where(Operation.state.in_((QUEUED, RUNNING)))
    )
    release_ids: set[str] = set()
    space_ids: set[str] = set()
    knows_spaces = True
    for state, request, result in operations:
        for named in (request, result):
            release_ids |= _values_of(named, "release_id")
        spaces = _values_of(result, "space_id")
        space_ids |= spaces
        # It may be embedding at this moment, in a space that nobody has named yet.
        knows_spaces &= state == QUEUED or bool(spaces)
    return NeededByOperations(frozenset(release_ids), frozenset(space_ids), knows_spaces)


def mark_retired(session: Session, release_id: str, protected: Collection[str]) -> bool:
    """Mark a release as retired, so that nobody activates it any more; False when it is served or needed after all."""
    # Under the lock that an activation takes as well: one of the two sees the other.
    active = _lock_activation(session)
    if release_id in {active.release_id, active.previous_release_id, *protected}:
        return False
    release = session.get(Release, release_id, populate_existing=True)
    if release is None:
        return False
    release.retired_at = release.retired_at or now()
    return True


def forget_release(session: Session, release_id: str) -> None:
    """Delete the row of a retired release, as the last step of its removal; its activations stay on record."""
    session.execute(delete(Release).where(Release.id == release_id, Release.retired_at.is_not(None)))


def _lock_activation(session: Session) -> ActiveRelease:
    """Return the present state, and hold its row until the transaction ends (SQLite: the whole database is held)."""
    row = session.get(Activation, 1, with_for_update=True, populate_existing=True)
    assert row is not None
    return _state_of(row)


def _state_of(row: Activation) -> ActiveRelease:
    return ActiveRelease(row.release_id, row.previous_release_id, row.version, row.activated_at)


def _values_of(named: Mapping[str, object], ending: str) -> set[str]:
    """Return the values of all names, nested ones too, that end so: release_id, base_release_id, ..."""
    found: set[str] = set()
    for name, value in named.items():
        if isinstance(value, Mapping):
            found |= _values_of(value, ending)
        elif isinstance(value, str) and value and name.endswith(ending):
            found.add(value)
    return found
