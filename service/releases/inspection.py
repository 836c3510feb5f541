"""Show one release in full, or verify its files, for HTTP and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.evaluations.records import select_evaluations
from service.installation.installation import Installation
from service.installation.processes import API, living_processes
from service.releases.errors import InvalidRelease, ReleaseNotFound
from service.releases.files import read_manifest_facts, verify_release
from service.releases.queries import ListedRelease
from service.releases.records import active_release, require_active_release, require_release, select_activations
from service.storage.tables.evaluations import Evaluation
from service.storage.tables.releases import ActivationEvent


@dataclass(frozen=True, slots=True)
class ReleaseDetails:
    """A release with its manifest, activations and evaluations.

    `manifest` is None if it cannot be read; `problem` then says why.
    """

    listed: ListedRelease
    manifest: Mapping[str, Any] | None
    problem: str | None
    activations: list[ActivationEvent]
    evaluations: list[Evaluation]


def find_release(installation: Installation, release_id: str) -> ReleaseDetails:
    """Return a release without verifying its files; raises ReleaseNotFound."""
    with installation.database.reading() as session:
        release = require_release(session, release_id)
        active = active_release(session)
        servers = living_processes(session, API)
        activations = select_activations(session, release_id=release_id)
        evaluations = select_evaluations(session, release_id=release_id)
    manifest, problem = None, None
    try:
        manifest = read_manifest_facts(installation.settings.releases_dir, release_id)
    except (ReleaseNotFound, InvalidRelease) as error:
        problem = str(error)
    newest = evaluations[0] if evaluations else None
    listed = ListedRelease.of(release, active, servers, newest)
    return ReleaseDetails(listed, manifest, problem, activations, evaluations)


def read_verified_manifest(installation: Installation, release_id: str | None = None) -> Mapping[str, Any]:
    """Verify every byte of a release, by default the active one, and return the facts of its manifest.

    Raises NoActiveRelease, ReleaseNotFound, or InvalidRelease naming the damaged file.
    """
    if release_id is None:
        with installation.database.reading() as session:
            release_id = require_active_release(session)
    return verify_release(installation.settings.releases_dir, release_id)
