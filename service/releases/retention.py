"""Retire old releases: the newest are kept, and whatever is served or needed; the others' files and rows are removed.

A release goes in four steps, each of which may be repeated: its row is marked (from then on nobody can activate it),
its directory gets a hidden name, the directory is deleted, the row is deleted. A process that is killed in between
leaves one of these states behind, and the next run goes on from there.
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
from service.releases.records import active_release, forget_release, list_releases, mark_retired, needed_by_operations
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
    """Retire all but the newest `keep` releases (default: the setting), and return their ids, the oldest first.

    Never the active one and the one before it, which do not count among the newest; nor one that a living server
    answers from, that an operation under way names, or that is in `needed`. Embeddings of spaces that no release has
    any more go as well, unless an operation or `needed_spaces` names them. A release whose directory is not there is
    left alone: its disk may come back. Raises BuilderBusy, or ReleaseError when files cannot be removed.
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
                # Looked at again: since the list was made, one of them may have been activated.
                protected = {*needed, *served_releases(session), *needed_by_operations(session).release_ids}
                if mark_retired(session, release_id, protected):
                    retired.append(release_id)
        _remove_retired(database, settings.releases_dir)
        _remove_embeddings(database, needed_spaces)
    for release_id in retired:
        log.info("release %s is retired", release_id)
    return retired


def _old_releases(database: Database, releases_dir: Path, keep: int, needed: Collection[str]) -> list[str]:
    with database.reading() as session:
        protected = {*needed, *served_releases(session), *needed_by_operations(session).release_ids}
        active = active_release(session)
        releases = list_releases(session, with_retired=False)
    served = {active.release_id, active.previous_release_id}
    old = [release.id for release in releases if release.id not in served][keep:]
    found = []
    for release_id in reversed(old):
        if release_id in protected:
            continue
        if not (releases_dir / release_id).is_dir():
            log.warning("release %s is not in %s; it is left alone, its disk may come back", release_id, releases_dir)
            continue
        found.append(release_id)
    return found


def _remove_retired(database: Database, releases_dir: Path) -> None:
    """Remove files and rows of all releases that are marked, those that an earlier run did not get to included."""
    with database.reading() as session:
        marked = [release.id for release in list_releases(session) if release.retired_at is not None]
    try:
        for release_id in marked:
            _hide(releases_dir, release_id)
        for hidden in sorted(releases_dir.glob(f"{_HIDDEN_PREFIX}*")):
            shutil.rmtree(hidden)
    except OSError as error:
        raise ReleaseError(
            f"files of a retired release cannot be removed: {error}; mend permissions and try again: akin release prune"
        ) from error
    # Rows last: as long as files are there, something says whose they are.
    with database.transaction() as session:
        for release_id in marked:
            forget_release(session, release_id)


def _hide(releases_dir: Path, release_id: str) -> None:
    """Take the directory of a release away from its name, in one step: it is whole, or it is not there."""
    directory, hidden = releases_dir / release_id, releases_dir / f"{_HIDDEN_PREFIX}{release_id}"
    if not directory.is_dir():
        return
    if hidden.exists():
        # Left by a run whose database was restored since.
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
        releases: list[Release] = list_releases(session)
        spaces = stored_spaces(session)
    if not operations.knows_spaces:
        log.info("an operation may be embedding at this moment; stored embeddings are left for another time")
        return
    kept = {*needed_spaces, *operations.space_ids, *(release.space_id for release in releases)}
    for space_id in spaces:
        if space_id not in kept:
            log.info("removed %d embeddings of space %s", remove_embeddings(database, space_id), space_id)
