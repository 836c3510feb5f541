"""Retire old releases: keep the newest and those in use, remove the files and rows of all others.

A release is removed in four steps, each of which can be repeated: its row is marked, after which it cannot be
activated; its directory is renamed to a hidden name; the directory is deleted; the row is deleted. If the process is
killed in between, the next run continues from there.
"""

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from service.embeddings.stored import remove_embeddings, stored_spaces
from service.installation.installation import Installation
from service.installation.processes import served_releases
from service.releases.build import only_builder
from service.releases.errors import ReleaseError
from service.releases.records import active_release, forget_release, mark_retired, needed_by_operations, select_releases
from service.storage.database import Database
from service.storage.tables.releases import Release

_HIDDEN_PREFIX = ".retired-"

log = logging.getLogger(__name__)


def retire_old_releases(
    installation: Installation,
    keep: int | None = None,
    *,
    needed: Collection[str] = (),
    needed_spaces: Collection[str] = (),
    dry_run: bool = False,
) -> list[str]:
    """Retire all but the newest `keep` releases (default: the setting) and return their ids, oldest first.

    The active and the previous release are always kept and do not count towards `keep`. Kept as well are releases
    that a living server answers from, that a queued or running operation names, or that are in `needed`. Stored
    embeddings of spaces that no release has any more are removed, unless an operation or `needed_spaces` names them.
    A release whose directory is missing is left alone: its volume may be unmounted. Raises BuilderBusy, and
    ReleaseError if files cannot be removed.
    """
    settings, database = installation.settings, installation.database
    keep = settings.release_retention if keep is None else keep
    if keep < 0:
        raise ValueError(f"keep must be at least 0, got {keep}")
    with only_builder(installation.settings):
        old = _old_releases(database, settings.releases_dir, keep, needed)
        if dry_run:
            return old
        retired = []
        for release_id in old:
            with database.transaction() as session:
                # Checked again: a release may have come into use since the list was made.
                protected = {*needed, *served_releases(session), *needed_by_operations(session).release_ids}
                if mark_retired(session, release_id, protected):
                    retired.append(release_id)
        _remove_retired(database, settings.releases_dir)
        _remove_embeddings(database, needed_spaces)
    for release_id in retired:
        log.info("release %s is retired", release_id)
    return retired


def remove_unused_release(installation: Installation, release_id: str) -> bool:
    """Remove a release at once, whatever operations name it; False if it is active, previous or served.

    For one that its own operation has superseded: left to retention, it would take the place of a release that was
    used. Raises BuilderBusy, and ReleaseError if files cannot be removed.
    """
    settings, database = installation.settings, installation.database
    with only_builder(settings):
        with database.transaction() as session:
            is_marked = mark_retired(session, release_id, served_releases(session))
        if is_marked:
            _remove_retired(database, settings.releases_dir)
            log.info("release %s is removed: its operation has built a newer one", release_id)
    return is_marked


def _old_releases(database: Database, releases_dir: Path, keep: int, needed: Collection[str]) -> list[str]:
    with database.reading() as session:
        protected = {*needed, *served_releases(session), *needed_by_operations(session).release_ids}
        active = active_release(session)
        releases = select_releases(session, with_retired=False)
    served = {active.release_id, active.previous_release_id}
    old = [release.id for release in releases if release.id not in served][keep:]
    found = []
    for release_id in reversed(old):
        if release_id in protected:
            continue
        if not (releases_dir / release_id).is_dir():
            log.warning("release %s is not in %s; left alone: its volume may be unmounted", release_id, releases_dir)
            continue
        found.append(release_id)
    return found


def _remove_retired(database: Database, releases_dir: Path) -> None:
    """Remove files and rows of all marked releases, including those left by an interrupted run."""
    with database.reading() as session:
        marked = [release.id for release in select_releases(session) if release.retired_at is not None]
    try:
        for release_id in marked:
            _hide(releases_dir, release_id)
        for hidden in sorted(releases_dir.glob(f"{_HIDDEN_PREFIX}*")):
            shutil.rmtree(hidden)
    except OSError as error:
        raise ReleaseError(
            f"files of a retired release cannot be removed: {error}; repair the permissions and try again: "
            "akin release prune"
        ) from error
    # Rows last: while files remain, a row says which release they belong to.
    with database.transaction() as session:
        for release_id in marked:
            forget_release(session, release_id)


def _hide(releases_dir: Path, release_id: str) -> None:
    """Rename the directory of a release to its hidden name, so that it is never half deleted under its own name."""
    directory, hidden = releases_dir / release_id, releases_dir / f"{_HIDDEN_PREFIX}{release_id}"
    if not directory.is_dir():
        return
    if hidden.exists():
        # Left by an earlier run, after which the database was restored from a backup.
        shutil.rmtree(hidden)
    directory.rename(hidden)
    descriptor = os.open(releases_dir, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_embeddings(database: Database, needed_spaces: Collection[str]) -> None:
    with database.reading() as session:
        operations = needed_by_operations(session)
        releases: list[Release] = select_releases(session)
        spaces = stored_spaces(session)
    if not operations.knows_spaces:
        log.info("a running operation may be embedding; stored embeddings are not removed this time")
        return
    kept = {*needed_spaces, *operations.space_ids, *(release.space_id for release in releases)}
    for space_id in spaces:
        if space_id not in kept:
            log.info("removed %d embeddings of space %s", remove_embeddings(database, space_id), space_id)
