"""Choose the release that is served, for commands and routes alike: every byte is verified before anything changes."""

from dataclasses import dataclass

from service.access.scopes import COMMAND_LINE
from service.installation.installation import Installation
from service.releases.errors import ActivationConflict
from service.releases.files import read_release_facts
from service.releases.records import ActiveRelease, activate_release, active_release, require_release, rollback_target


@dataclass(frozen=True, slots=True)
class Activated:
    """What is active now; `has_changed` is False when it was so before."""

    release_id: str
    previous_release_id: str | None
    version: int
    has_changed: bool


def activate_verified(
    installation: Installation,
    release_id: str,
    *,
    actor: str = COMMAND_LINE,
    reason: str = "",
    expected_version: int | None = None,
) -> Activated:
    """Serve a release. `expected_version` is that of the activation which the caller has seen and decided upon.

    Raises ReleaseNotFound, InvalidRelease naming the damaged file, or ActivationConflict.
    """
    seen = _seen(installation, expected_version)
    return _activate(installation, release_id, seen, expected_version, actor, reason)


def roll_back_verified(
    installation: Installation,
    *,
    to: str | None = None,
    actor: str = COMMAND_LINE,
    reason: str = "",
    expected_version: int | None = None,
) -> Activated:
    """Serve the release that was active before the present one, or `to`; raises NoPreviousRelease and as above."""
    seen = _seen(installation, expected_version)
    # The state is that of the choice: activated meanwhile, another release has another one before it.
    return _activate(installation, rollback_target(seen, to), seen, seen.version, actor, reason or "rollback")


def _seen(installation: Installation, expected_version: int | None) -> ActiveRelease:
    with installation.database.reading() as session:
        seen = active_release(session)
    if expected_version is not None and seen.version != expected_version:
        raise ActivationConflict(
            f"the activation has version {seen.version}, not {expected_version}: release {seen.release_id} is active; "
            "look and try again"
        )
    return seen


def _activate(
    installation: Installation,
    release_id: str,
    seen: ActiveRelease,
    expected_version: int | None,
    actor: str,
    reason: str,
) -> Activated:
    with installation.database.reading() as session:
        require_release(session, release_id)
    # Servers would refuse a damaged release; so does this, before anything changes.
    read_release_facts(installation.settings.releases_dir, release_id)
    with installation.database.transaction() as session:
        # Without an expectation the last one to ask wins, as a command line does.
        expected = seen if expected_version is not None else None
        has_changed = activate_release(session, release_id, expected=expected, actor=actor, reason=reason)
        session.flush()
        session.expire_all()
        now_active = active_release(session)
    return Activated(release_id, now_active.previous_release_id, now_active.version, has_changed)
