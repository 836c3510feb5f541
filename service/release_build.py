"""Build a release from the catalogue: embed what is new, build the index, publish, activate."""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import remove_abandoned_drafts
from embedding.checkpoint import load_embedder
from index.structures import IndexOptions
from service.catalogue import CatalogueSnapshot, take_snapshot
from service.database import now
from service.embeddings import embed_missing, read_embeddings
from service.errors import EmptyCatalogue
from service.installation import Installation
from service.release_files import CHECKPOINT_NAME, write_release
from service.releases import ActiveRelease, activate_release, active_release, list_releases, record_release

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]  # pictures embedded, pictures to embed


@dataclass(frozen=True, slots=True)
class BuiltRelease:
    """A release that was published, with what it took."""

    release_id: str
    is_active: bool
    num_products: int
    num_images: int
    num_embedded: int
    index: dict[str, object]
    embed_seconds: float
    build_seconds: float


def build_release(
    installation: Installation,
    *,
    checkpoint: Path | None = None,
    options: IndexOptions | None = None,
    activate: bool = True,
    on_progress: OnProgress | None = None,
) -> BuiltRelease:
    """Publish a release of the whole catalogue as it is now.

    `checkpoint` defaults to that of the active release, or to the one that needs no training. What was embedded
    before in its space is not embedded again; a run that was cut off goes on. Raises EmptyCatalogue, MediaError,
    LowRecall, InvalidArtifact; then nothing of the new release remains and the old one stays active.
    """
    settings, database = installation.settings, installation.database
    with installation.only_builder():
        remove_abandoned_drafts(settings.releases_dir)
        with database.reading() as session:
            snapshot = take_snapshot(session)
            before = active_release(session)
            recorded = {release.id for release in list_releases(session)}
        _remove_unrecorded(settings.releases_dir, recorded)
        if not snapshot.images:
            raise EmptyCatalogue(
                "the catalogue has no picture of role 'catalogue' to index; import some: akin catalogue import PATH"
            )
        checkpoint = checkpoint or _default_checkpoint(installation, before)
        start = time.perf_counter()
        embeddings_ND, num_embedded = _embed(installation, checkpoint, snapshot, on_progress)
        embedded = time.perf_counter()
        facts = _publish(installation, checkpoint, snapshot, embeddings_ND, options or IndexOptions())
        if activate:
            with database.transaction() as session:
                activate_release(session, facts["release_id"], expected=before)
    return BuiltRelease(
        release_id=facts["release_id"],
        is_active=activate,
        num_products=facts["num_products"],
        num_images=facts["num_images"],
        num_embedded=num_embedded,
        index=facts["index"],
        embed_seconds=embedded - start,
        build_seconds=time.perf_counter() - embedded,
    )


def _default_checkpoint(installation: Installation, active: ActiveRelease) -> Path:
    if active.release_id is None:
        return installation.default_checkpoint()
    return installation.settings.releases_dir / active.release_id / CHECKPOINT_NAME


def _embed(
    installation: Installation, checkpoint: Path, snapshot: CatalogueSnapshot, on_progress: OnProgress | None
) -> tuple[NDArray[np.float32], int]:
    """Return the embeddings [N, D] of the snapshot's pictures, and how many had to be computed now."""
    settings, database = installation.settings, installation.database
    embedder = load_embedder(checkpoint, device=settings.device, precision=settings.precision)
    names = [image.media_name for image in snapshot.images]
    num_embedded = embed_missing(
        database, installation.media_store, embedder, names, limits=installation.limits, on_progress=on_progress
    )
    digests = [name.sha256 for name in names]
    with database.reading() as session:
        return read_embeddings(session, embedder.space_id, digests, embedder.embedding_dim), num_embedded


def _publish(
    installation: Installation,
    checkpoint: Path,
    snapshot: CatalogueSnapshot,
    embeddings_ND: NDArray[np.float32],
    options: IndexOptions,
) -> Mapping[str, Any]:
    """Write the release and make it known; return the facts of its manifest."""
    moment = now()
    facts = write_release(
        installation.settings.releases_dir,
        f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        checkpoint,
        snapshot,
        embeddings_ND,
        options,
        created_at=moment.isoformat(),
    )
    with installation.database.transaction() as session:
        record_release(session, facts)
    return facts


def _remove_unrecorded(releases_dir: Path, recorded: set[str]) -> None:
    """Delete releases that a process wrote and was killed before it could record: nobody knows them."""
    for directory in releases_dir.iterdir():
        if directory.is_dir() and directory.name not in recorded:
            log.warning("removing %s, which no process recorded", directory)
            shutil.rmtree(directory)
