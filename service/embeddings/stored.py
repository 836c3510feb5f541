"""Stored embeddings, keyed by embedding space and image content so that no image is embedded twice."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from embedding.bulk import BulkOptions, embed_images
from embedding.decoding import DecodingLimits
from embedding.embedder import ImageEmbedder
from embedding.stages import StageReport
from service.catalogue.records import KEYS_PER_QUERY, chunks
from service.embeddings.errors import MissingEmbeddings
from service.storage.database import Database, insert_missing
from service.storage.errors import MediaError
from service.storage.media import MediaName, MediaStore
from service.storage.tables.embeddings import StoredEmbedding

_DTYPE = np.dtype("<f4")


class OnEmbedded(Protocol):
    """Receives the number of images embedded and to embed, and the work of each stage so far."""

    def __call__(self, done: int, total: int, stages: StageReport | None = None, /) -> None:
        """Called after each batch."""


def embed_missing(
    database: Database,
    media_store: MediaStore,
    embedder: ImageEmbedder,
    names: Sequence[MediaName],
    *,
    limits: DecodingLimits,
    on_progress: OnEmbedded | None = None,
) -> int:
    """Embed and store the images that have no embedding in the embedder's space; return how many these were.

    Each batch is committed separately, so an interrupted run can be resumed. Raises MediaError after all other images
    are embedded if some could not be read; the message names the first of them.
    """
    with database.reading() as session:
        done = _stored_digests(session, embedder.space_id, [name.sha256 for name in names])
    missing = list({name.sha256: name for name in names if name.sha256 not in done}.values())
    unreadable: list[str] = []
    num_done = 0
    options = BulkOptions(limits=limits, num_readers=media_store.num_readers, skipped=(MediaError,))
    for batch in embed_images(missing, media_store.get, embedder, options):
        for name, error in batch.failures:
            # A MediaError names its image.
            unreadable.append(str(error) if isinstance(error, MediaError) else f"{name.sha256}: {error}")
        rows = [
            {"space_id": embedder.space_id, "sha256": name.sha256, "embedding": embedding.astype(_DTYPE).tobytes()}
            for name, embedding in zip(batch.keys, batch.embeddings, strict=True)
        ]
        with database.transaction() as session:
            # Another process may have inserted some of them in the meantime.
            insert_missing(session, StoredEmbedding, rows)
        num_done += len(batch.keys)
        if on_progress:
            on_progress(num_done, len(missing), batch.stages)
    if unreadable:
        raise MediaError(f"{len(unreadable)} of {len(missing)} images cannot be embedded; the first: {unreadable[0]}")
    return len(missing)


def read_embeddings(session: Session, space_id: str, digests: Sequence[str], dim: int) -> NDArray[np.float32]:
    """Return the stored embeddings [N, D] of the images with these digests, in the same order.

    Raises MissingEmbeddings.
    """
    rows_of: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        rows_of.setdefault(digest, []).append(row)
    embeddings = np.empty((len(digests), dim), np.float32)
    num_found = 0
    for part in chunks(list(rows_of), KEYS_PER_QUERY):
        found = session.execute(
            select(StoredEmbedding.sha256, StoredEmbedding.embedding).where(
                StoredEmbedding.space_id == space_id, StoredEmbedding.sha256.in_(part)
            )
        )
        for digest, stored in found:
            embeddings[rows_of[digest]] = np.frombuffer(stored, _DTYPE)
            num_found += 1
    if num_found != len(rows_of):
        raise MissingEmbeddings(
            f"{len(rows_of) - num_found} embeddings of space {space_id} are missing; build the index again"
        )
    return embeddings


def stored_spaces(session: Session) -> list[str]:
    """Return the ids of all spaces with stored embeddings."""
    found: list[str] = []
    # Step from one space to the next along the primary key: DISTINCT would read every row.
    space_id = session.scalar(select(func.min(StoredEmbedding.space_id)))
    while space_id is not None:
        found.append(space_id)
        space_id = session.scalar(select(func.min(StoredEmbedding.space_id)).where(StoredEmbedding.space_id > space_id))
    return found


def remove_embeddings(database: Database, space_id: str) -> int:
    """Delete all embeddings of a space; return their number. Short transactions keep writers from waiting long."""
    num_removed = 0
    while True:
        with database.transaction() as session:
            digests = session.scalars(
                select(StoredEmbedding.sha256)
                .where(StoredEmbedding.space_id == space_id)
                .order_by(StoredEmbedding.sha256)
                .limit(KEYS_PER_QUERY)
            ).all()
            if not digests:
                return num_removed
            session.execute(
                delete(StoredEmbedding).where(StoredEmbedding.space_id == space_id, StoredEmbedding.sha256.in_(digests))
            )
        num_removed += len(digests)


def _stored_digests(session: Session, space_id: str, digests: Sequence[str]) -> set[str]:
    stored: set[str] = set()
    for part in chunks(digests, KEYS_PER_QUERY):
        query = select(StoredEmbedding.sha256)
        stored.update(
            session.scalars(query.where(StoredEmbedding.space_id == space_id, StoredEmbedding.sha256.in_(part)))
        )
    return stored
