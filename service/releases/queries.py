"""List releases and activations, for HTTP and the command line."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.evaluations.records import newest_evaluations
from service.installation.processes import API, living_processes
from service.releases.records import ActiveRelease, active_release, select_activations, select_releases
from service.storage.database import Database
from service.storage.tables.evaluations import Evaluation
from service.storage.tables.processes import Process
from service.storage.tables.releases import ActivationEvent, Release


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """A release with the living servers that answer from it, and its newest evaluation."""

    release: Release
    is_active: bool
    is_previous: bool
    servers: tuple[Process, ...]
    evaluation: Evaluation | None

    @classmethod
    def of(
        cls, release: Release, active: ActiveRelease, servers: Iterable[Process], evaluation: Evaluation | None
    ) -> "ListedRelease":
        """Put a release beside the present activation and all living servers."""
        return cls(
            release,
            is_active=release.id == active.release_id,
            is_previous=release.id == active.previous_release_id,
            servers=tuple(server for server in servers if server.release_id == release.id),
            evaluation=evaluation,
        )


@dataclass(frozen=True, slots=True)
class ReleaseListing:
    """The present activation, and releases, newest first, as they were at one moment."""

    activation: ActiveRelease
    releases: tuple[ListedRelease, ...]


def list_releases(database: Database, *, limit: int | None = None, before: str | None = None) -> ReleaseListing:
    """Return the releases that can be activated, newest first.

    `before` is the id of the last release of the previous page. Raises ReleaseNotFound if it is unknown.
    """
    with database.reading() as session:
        active = active_release(session)
        releases = select_releases(session, with_retired=False, limit=limit, before=before)
        servers = living_processes(session, API)
        evaluations = newest_evaluations(session, [release.id for release in releases])
    listed = (ListedRelease.of(release, active, servers, evaluations.get(release.id)) for release in releases)
    return ReleaseListing(active, tuple(listed))


def list_activations(
    database: Database, *, release_id: str | None = None, limit: int = 100, before: int | None = None
) -> list[ActivationEvent]:
    """Return activations and rollbacks, newest first; `release_id` restricts them to one release.

    `before` is the version of the last one of the previous page.
    """
    with database.reading() as session:
        return select_activations(session, release_id=release_id, limit=limit, before=before)
