"""Build a release from the catalogue: embed what is new, build the index, publish, activate."""

import fcntl
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import remove_abandoned_drafts
from embedding.checkpoint import load_embedder, read_checkpoint_facts
from embedding.errors import InvalidArtifact
from index.structures import IndexOptions, choose_structure
from service.catalogue.errors import EmptyCatalogue
from service.catalogue.records import CatalogueContents, read_catalogue
from service.embeddings.pretrained import zero_shot_checkpoint
from service.embeddings.stored import embed_missing, read_embeddings
from service.errors import InvalidSetting
from service.installation.installation import Installation
from service.installation.settings import Settings
from service.releases.errors import BuilderBusy, InvalidRelease
from service.releases.files import CHECKPOINT_NAME, read_release_facts, write_release
from service.releases.records import ActiveRelease, activate_release, active_release, list_releases, record_release
from service.storage.database import now

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]  # images embedded, images to embed


@dataclass(frozen=True, slots=True)
class BuiltRelease:
    """A release that was published, with what it took."""

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
    """What a release is to be called, and what made it; an operation that is repeated gives the same again."""

    release_id: str
    operation_id: str | None = None
    evaluation: Mapping[str, object] | None = None


def build_release(
    installation: Installation,
    *,
    checkpoint: Path | None = None,
    options: IndexOptions | None = None,
    activate: bool = True,
    on_progress: OnProgress | None = None,
    origin: ReleaseOrigin | None = None,
) -> BuiltRelease:
    """Publish a release of the whole catalogue as it is now.

    `checkpoint` defaults to that of the active release, or to the one that needs no training. What was embedded
    before in its space is not embedded again; a run that was cut off goes on, and one whose `origin` names a release
    that is there already builds nothing. Raises EmptyCatalogue, MediaError, LowRecall, InvalidArtifact, BuilderBusy;
    then nothing of the new release remains and the old one stays active.
    """
    settings, database = installation.settings, installation.database
    origin = origin or ReleaseOrigin(f"{now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
    start = time.perf_counter()
    with only_builder(installation.settings):
        remove_abandoned_drafts(settings.releases_dir)
        with database.reading() as session:
            catalogue = read_catalogue(session)
            before = active_release(session)
            recorded = {release.id for release in list_releases(session)}
        remove_abandoned_drafts(settings.checkpoints_dir)
        _record_found(installation, recorded, origin)
        if (settings.releases_dir / origin.release_id).is_dir():
            facts = read_release_facts(settings.releases_dir, origin.release_id)
            return _built(facts, is_active=before.release_id == origin.release_id)
        if not catalogue.images:
            raise EmptyCatalogue(
                "the catalogue has no image of role 'catalogue' to index; import some: akin catalogue import PATH"
            )
        checkpoint = checkpoint or default_checkpoint(installation, before)
        options = replace(options or IndexOptions(), device=settings.index_device)
        _check_options(options, checkpoint, catalogue)
        embeddings_ND, num_embedded = _embed(installation, checkpoint, catalogue, on_progress)
        embedded = time.perf_counter()
        facts = _publish(installation, checkpoint, catalogue, embeddings_ND, options, origin)
        if activate:
            with database.transaction() as session:
                activate_release(session, facts["release_id"], expected=before)
    return _built(
        facts,
        is_active=activate,
        num_embedded=num_embedded,
        embed_seconds=embedded - start,
        build_seconds=time.perf_counter() - embedded,
    )


@contextmanager
def only_builder(settings: Settings) -> Iterator[None]:
    """Hold the lock that lets one process at a time write releases; raises BuilderBusy while another holds it."""
    settings.releases_dir.mkdir(parents=True, exist_ok=True)
    path = settings.releases_dir / ".lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuilderBusy(f"another process builds a release in {settings.releases_dir}; wait for it") from None
        yield


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


def default_checkpoint(installation: Installation, active: ActiveRelease) -> Path:
    """Return the model of the active release, or the one that needs no training; raises InvalidRelease."""
    if active.release_id is None:
        return zero_shot_checkpoint(installation.settings)
    directory = installation.settings.releases_dir / active.release_id / CHECKPOINT_NAME
    try:
        read_checkpoint_facts(directory)
    except InvalidArtifact as error:
        raise InvalidRelease(
            f"the model of the active release {active.release_id} cannot be used: {error}. Activate another release "
            f"(akin release list), or build with another model, the untrained one for instance: "
            f"akin index build --checkpoint {zero_shot_checkpoint(installation.settings)}"
        ) from error
    return directory


def _check_options(options: IndexOptions, checkpoint: Path, catalogue: CatalogueContents) -> None:
    """Refuse options that cannot fit before anything is embedded."""
    facts = read_checkpoint_facts(checkpoint)
    try:
        choose_structure(len(catalogue.images), facts.architecture.embedding_dim, options)
    except ValueError as error:
        raise InvalidSetting(str(error)) from error


def _embed(
    installation: Installation, checkpoint: Path, catalogue: CatalogueContents, on_progress: OnProgress | None
) -> tuple[NDArray[np.float32], int]:
    """Return the embeddings [N, D] of the catalogue's images, and how many had to be computed now."""
    settings, database = installation.settings, installation.database
    embedder = load_embedder(checkpoint, device=settings.device, precision=settings.precision)
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
    """Write the release and make it known; return the facts of its manifest."""
    facts = write_release(
        installation.settings.releases_dir,
        origin.release_id,
        checkpoint,
        catalogue,
        embeddings_ND,
        options,
        created_at=now().isoformat(),
        evaluation=origin.evaluation,
    )
    with installation.database.transaction() as session:
        record_release(session, facts, operation_id=origin.operation_id)
    return facts


def _record_found(installation: Installation, recorded: set[str], origin: ReleaseOrigin) -> None:
    """Record whole releases that this database does not know; nothing is ever deleted on that ground.

    A process killed between writing and recording leaves one, and so does a database that was restored or replaced.
    """
    releases_dir = installation.settings.releases_dir
    for directory in sorted(releases_dir.iterdir()):
        # Hidden ones are on their way in or out.
        if not directory.is_dir() or directory.name.startswith(".") or directory.name in recorded:
            continue
        try:
            facts = read_release_facts(releases_dir, directory.name)
        except InvalidRelease as error:
            log.warning("%s is left alone: %s", directory, error)
            continue
        is_ours = directory.name == origin.release_id
        with installation.database.transaction() as session:
            record_release(session, facts, operation_id=origin.operation_id if is_ours else None)
        log.warning("release %s was on disk but not in the database; it is recorded now", directory.name)
