"""Build a release from the catalogue: embed new images, build the index, publish, activate."""

import fcntl
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import remove_abandoned_drafts
from embedding.checkpoint import exported_checkpoint, load_embedder, read_checkpoint_facts
from embedding.errors import InvalidArtifact
from index.structures import IndexOptions, choose_structure
from service.catalogue.errors import EmptyCatalogue
from service.catalogue.records import CatalogueContents, read_catalogue
from service.embeddings.pretrained import zero_shot_checkpoint
from service.embeddings.stored import OnEmbedded, embed_missing, read_embeddings
from service.errors import InvalidSetting
from service.installation.installation import Installation
from service.installation.settings import Settings
from service.releases.errors import BuilderBusy, InvalidRelease
from service.releases.files import CHECKPOINT_NAME, verify_release, write_release
from service.releases.records import ActiveRelease, activate_release, active_release, record_release, select_releases
from service.storage.database import now

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuiltRelease:
    """A published release and what building it took."""

    release_id: str
    is_active: bool
    watermark: int
    num_products: int
    num_images: int
    num_embedded: int
    index: dict[str, object]
    index_recall: float
    embed_seconds: float
    build_seconds: float


@dataclass(frozen=True, slots=True)
class ReleaseOrigin:
    """The id of a release and the operation that makes it; a resumed operation passes the same origin again."""

    release_id: str
    operation_id: str | None = None
    evaluation: Mapping[str, object] | None = None


def build_release(
    installation: Installation,
    *,
    checkpoint: Path | None = None,
    options: IndexOptions | None = None,
    activate: bool = True,
    on_progress: OnEmbedded | None = None,
    origin: ReleaseOrigin | None = None,
) -> BuiltRelease:
    """Publish a release of the whole catalogue in its present state.

    `checkpoint` defaults to that of the active release, or to the untrained one. Only images without a stored
    embedding in its space are embedded, so an interrupted build resumes. If the release named by `origin` exists,
    nothing is built. Raises EmptyCatalogue, MediaError, LowRecall, InvalidArtifact and BuilderBusy; in each case
    nothing of the new release remains and the active one does not change.
    """
    settings, database = installation.settings, installation.database
    origin = origin or ReleaseOrigin(f"{now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
    start = time.perf_counter()
    with only_builder(installation.settings):
        remove_abandoned_drafts(settings.releases_dir)
        with database.reading() as session:
            catalogue = read_catalogue(session)
            active = active_release(session)
            recorded = {release.id for release in select_releases(session)}
        remove_abandoned_drafts(settings.checkpoints_dir)
        _record_unrecorded(installation, recorded, origin)
        if (settings.releases_dir / origin.release_id).is_dir():
            facts = verify_release(settings.releases_dir, origin.release_id)
            return _built(facts, is_active=active.release_id == origin.release_id)
        if not catalogue.images:
            raise EmptyCatalogue(
                "the catalogue has no image of role 'catalogue' to index; import some: akin catalogue import PATH"
            )
        checkpoint = checkpoint or default_checkpoint(installation, active)
        options = replace(options or IndexOptions(), device=settings.index_device)
        _check_options(options, checkpoint, catalogue)
        embeddings_ND, num_embedded = _embed(installation, checkpoint, catalogue, on_progress)
        embedded_at = time.perf_counter()
        facts = _publish(installation, checkpoint, catalogue, embeddings_ND, options, origin)
        if activate:
            with database.transaction() as session:
                activate_release(session, facts["release_id"], expected=active)
    return _built(
        facts,
        is_active=activate,
        num_embedded=num_embedded,
        embed_seconds=embedded_at - start,
        build_seconds=time.perf_counter() - embedded_at,
    )


@contextmanager
def only_builder(settings: Settings) -> Iterator[None]:
    """Hold the lock for writing releases; raises BuilderBusy while another process holds it."""
    settings.releases_dir.mkdir(parents=True, exist_ok=True)
    path = settings.releases_dir / ".lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuilderBusy(
                f"another process is writing releases in {settings.releases_dir}; try again when it has finished"
            ) from None
        yield


def default_checkpoint(installation: Installation, active: ActiveRelease) -> Path:
    """Return the checkpoint of the active release, or the untrained one if none is active; raises InvalidRelease."""
    if active.release_id is None:
        return zero_shot_checkpoint(installation.settings)
    directory = installation.settings.releases_dir / active.release_id / CHECKPOINT_NAME
    try:
        read_checkpoint_facts(directory)
    except InvalidArtifact as error:
        raise InvalidRelease(
            f"the model of the active release {active.release_id} cannot be used: {error}. Activate another release "
            f"(akin release list), or build with another model, for example the untrained one: "
            f"akin index build --checkpoint {zero_shot_checkpoint(installation.settings)}"
        ) from error
    return directory


def _built(
    facts: Mapping[str, Any],
    *,
    is_active: bool,
    num_embedded: int = 0,
    embed_seconds: float = 0.0,
    build_seconds: float = 0.0,
) -> BuiltRelease:
    return BuiltRelease(
        release_id=facts["release_id"],
        is_active=is_active,
        watermark=facts["watermark"],
        num_products=facts["num_products"],
        num_images=facts["num_images"],
        num_embedded=num_embedded,
        index=facts["index"],
        index_recall=float(facts["index"]["ann_recall"]["value"]),
        embed_seconds=embed_seconds,
        build_seconds=build_seconds,
    )


def _check_options(options: IndexOptions, checkpoint: Path, catalogue: CatalogueContents) -> None:
    """Raise InvalidSetting for options that do not suit the catalogue, before anything is embedded."""
    facts = read_checkpoint_facts(checkpoint)
    try:
        choose_structure(len(catalogue.images), facts.architecture.embedding_dim, options)
    except ValueError as error:
        raise InvalidSetting(str(error)) from error


def _embed(
    installation: Installation, checkpoint: Path, catalogue: CatalogueContents, on_progress: OnEmbedded | None
) -> tuple[NDArray[np.float32], int]:
    """Return the embeddings [N, D] of the catalogue's images, and how many of them were missing."""
    settings, database = installation.settings, installation.database
    embedder = load_embedder(checkpoint, settings.network_options.for_bulk())
    names = [image.media_name for image in catalogue.images]
    num_embedded = embed_missing(
        database, installation.media_store, embedder, names, limits=installation.limits, on_progress=on_progress
    )
    digests = [name.sha256 for name in names]
    with database.reading() as session:
        return read_embeddings(session, embedder.space_id, digests, embedder.embedding_dim), num_embedded


def _publish(
    installation: Installation,
    checkpoint: Path,
    catalogue: CatalogueContents,
    embeddings_ND: NDArray[np.float32],
    options: IndexOptions,
    origin: ReleaseOrigin,
) -> Mapping[str, Any]:
    """Write the release and record it; return the facts of its manifest."""
    settings = installation.settings
    with exported_checkpoint(checkpoint, settings.network_options) as exported:
        facts = write_release(
            settings.releases_dir,
            origin.release_id,
            checkpoint,
            catalogue,
            embeddings_ND,
            options,
            created_at=now().isoformat(),
            evaluation=origin.evaluation,
            exported=exported,
        )
    with installation.database.transaction() as session:
        record_release(session, facts, operation_id=origin.operation_id)
    return facts


def _record_unrecorded(installation: Installation, recorded: set[str], origin: ReleaseOrigin) -> None:
    """Record intact releases on disk that the database lacks; damaged ones are left alone.

    A process that was killed between writing and recording leaves such a release, and so does a database that was
    restored from a backup or replaced.
    """
    releases_dir = installation.settings.releases_dir
    for directory in sorted(releases_dir.iterdir()):
        # Hidden directories are drafts, or releases that are being removed.
        if not directory.is_dir() or directory.name.startswith(".") or directory.name in recorded:
            continue
        try:
            facts = verify_release(releases_dir, directory.name)
        except InvalidRelease as error:
            log.warning("%s is left alone: %s", directory, error)
            continue
        is_from_origin = directory.name == origin.release_id
        with installation.database.transaction() as session:
            record_release(session, facts, operation_id=origin.operation_id if is_from_origin else None)
        log.warning("release %s was on disk but not in the database; recorded it", directory.name)
