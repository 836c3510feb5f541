"""Activate a release or roll back to one, after every byte of it has been verified."""

from dataclasses import dataclass

from service.access.scopes import COMMAND_LINE
from service.installation.installation import Installation
from service.releases.errors import ActivationConflict
from service.releases.files import verify_release
from service.releases.records import ActiveRelease, activate_release, active_release, require_release, rollback_target


@dataclass(frozen=True, slots=True)
class ActivationOutcome:
    """The present activation; `has_changed` is False if the release was active before."""

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
) -> ActivationOutcome:
    """Activate a release.

    If `expected_version` is given, the present activation must have that version; otherwise concurrent activations
    overwrite each other. Raises ReleaseNotFound, InvalidRelease naming the damaged file, and ActivationConflict.
    """
    present = _present_activation(installation, expected_version)
    expected = present if expected_version is not None else None
    return _verify_and_activate(installation, release_id, expected, actor, reason)


def roll_back_verified(
    installation: Installation,
    *,
    to: str | None = None,
    actor: str = COMMAND_LINE,
    reason: str = "",
    expected_version: int | None = None,
) -> ActivationOutcome:
    """Activate the release `to`, by default the previously active one.

    The release that was active becomes the previous one, so a second rollback undoes the first. Raises
    NoPreviousRelease, and what `activate_verified` raises.
    """
    present = _present_activation(installation, expected_version)
    # The target depends on the present activation, so the activation must not change while the target is verified.
    return _verify_and_activate(installation, rollback_target(present, to), present, actor, reason or "rollback")


def _present_activation(installation: Installation, expected_version: int | None) -> ActiveRelease:
    with installation.database.reading() as session:
        present = active_release(session)
    if expected_version is not None and present.version != expected_version:
        raise ActivationConflict(
            f"the activation has version {present.version}, not {expected_version}: release {present.release_id} is "
            "active; check it and try again"
        )
    return present


def _verify_and_activate(
    installation: Installation, release_id: str, expected: ActiveRelease | None, actor: str, reason: str
) -> ActivationOutcome:
    with installation.database.reading() as session:
        require_release(session, release_id)
    # Servers refuse a damaged release. Verifying it here leaves the activation unchanged instead.
    verify_release(installation.settings.releases_dir, release_id)
    with installation.database.transaction() as session:
        has_changed = activate_release(session, release_id, expected=expected, actor=actor, reason=reason)
        session.flush()
        session.expire_all()
        present = active_release(session)
    return ActivationOutcome(release_id, present.previous_release_id, present.version, has_changed)
