"""A release on disk: everything that a search needs, in one immutable directory.

checkpoint/     the model
index/          the index over the catalogue's images
rows.arrow      what a hit shows, for each row of the index, so that a search needs no SQL
manifest.json   ids, watermark, evaluation; checksums of all files above
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedding.artifact import canonical_json, new_artifact, read_manifest, verify_artifact
from embedding.checkpoint import load_embedder, read_checkpoint_facts
from embedding.embedder import ImageEmbedder, Precision
from embedding.errors import InvalidArtifact
from index.errors import VectorIndexError
from index.indexer import IndexEntry, build_index
from index.structures import IndexOptions
from index.vector_index import VectorIndex
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.releases.errors import InvalidRelease, ReleaseError, ReleaseNotFound

KIND = "akin-release/1"
CHECKPOINT_NAME = "checkpoint"
INDEX_NAME = "index"
ROWS_NAME = "rows.arrow"
_ROWS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image_id", "product_id", "title", "attributes", "media_name")]
)


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """What a hit shows of one row of the index."""

    image_id: str
    product_id: str
    title: str
    attributes: dict[str, object]
    media_name: str


class ReleaseRows:
    """The rows of a release, memory-mapped and numbered as in its index."""

    def __init__(self, path: Path) -> None:
        # Memory-mapped columns are read from disk on first access.
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._columns = {name: table.column(name) for name in _ROWS_SCHEMA.names}
        self._num_rows: int = table.num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, row: int) -> ReleaseRow:
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        return ReleaseRow(**{**values, "attributes": json.loads(values["attributes"])})

    def image_ids(self) -> list[str]:
        """Return the image id of each row."""
        return cast(list[str], self._columns["image_id"].to_pylist())

    def media_names(self) -> frozenset[str]:
        """Return the names of all images that a hit may show."""
        return frozenset(self._columns["media_name"].unique().to_pylist())


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """A release that has been verified and loaded."""

    release_id: str
    facts: Mapping[str, Any]  # of the manifest
    embedder: ImageEmbedder
    index: VectorIndex
    rows: ReleaseRows


def write_release(
    releases_dir: Path,
    release_id: str,
    checkpoint: Path,
    catalogue: CatalogueContents,
    embeddings_ND: NDArray[np.float32],
    options: IndexOptions,
    *,
    created_at: str,
    evaluation: Mapping[str, object] | None = None,
) -> Mapping[str, Any]:
    """Build the index and write the release atomically; return the facts of its manifest.

    Row i of `embeddings_ND` belongs to `catalogue.images[i]`. Raises LowRecall if the index misses its threshold.
    """
    checkpoint_facts = read_checkpoint_facts(checkpoint)
    images = catalogue.images
    facts: dict[str, object] = {
        "release_id": release_id,
        "created_at": created_at,
        "akin_version": version("akin"),
        "space_id": checkpoint_facts.space_id,
        "architecture": checkpoint_facts.architecture.to_json(),
        "preprocessing_sha256": hashlib.sha256(canonical_json(checkpoint_facts.preprocessing.to_json())).hexdigest(),
        "watermark": catalogue.watermark,
        "num_products": len({image.product_id for image in images}),
        "num_images": len(images),
        "evaluation": evaluation,
    }
    with _write_errors(releases_dir), new_artifact(releases_dir / release_id, KIND, facts) as draft:
        shutil.copytree(checkpoint, draft.path / CHECKPOINT_NAME)
        entries = [IndexEntry(image.image_id, image.product_id, image.attributes) for image in images]
        index_facts = build_index(
            draft.path / INDEX_NAME, entries, embeddings_ND, space_id=checkpoint_facts.space_id, options=options
        )
        _write_rows(draft.path / ROWS_NAME, images)
        draft.facts["index"] = index_facts.to_json()
    return draft.facts


def verify_release(releases_dir: Path, release_id: str) -> Mapping[str, Any]:
    """Verify every byte of a release and return the facts of its manifest.

    Raises ReleaseNotFound, or InvalidRelease naming the damaged file.
    """
    directory = _directory_of(releases_dir, release_id)
    with _as_invalid_release(directory, release_id):
        facts = verify_artifact(directory, KIND)
    if facts.get("release_id") != release_id:
        raise InvalidRelease(
            f"release {release_id} is refused: its manifest is that of release {facts.get('release_id')}; rename the "
            "directory to that id"
        )
    return facts


def read_manifest_facts(releases_dir: Path, release_id: str) -> Mapping[str, Any]:
    """Return the facts of the manifest without verifying the other files; raises ReleaseNotFound and InvalidRelease."""
    directory = _directory_of(releases_dir, release_id)
    with _as_invalid_release(directory, release_id):
        return cast(Mapping[str, Any], read_manifest(directory, KIND)["facts"])


def _directory_of(releases_dir: Path, release_id: str) -> Path:
    directory = releases_dir / release_id
    # The id may come from a client, so only a direct subdirectory is accepted.
    if directory.parent != releases_dir or release_id.startswith(".") or not directory.is_dir():
        raise ReleaseNotFound(f"there is no release {release_id!r} in {releases_dir.name}; see: akin release list")
    return directory


@contextmanager
def _as_invalid_release(directory: Path, release_id: str) -> Iterator[None]:
    """Turn errors of the files into InvalidRelease, which names the file but does not disclose its location."""
    try:
        yield
    except (InvalidArtifact, OSError) as error:
        reason = str(error).replace(f"{directory}: ", "").replace(str(directory), release_id)
        raise InvalidRelease(f"release {release_id} is refused: {reason}") from error


def load_release(
    releases_dir: Path, release_id: str, *, device: str, precision: Precision, index_device: str
) -> LoadedRelease:
    """Verify and load a release; raises ReleaseNotFound or InvalidRelease."""
    facts = verify_release(releases_dir, release_id)
    directory = releases_dir / release_id
    try:
        embedder = load_embedder(directory / CHECKPOINT_NAME, device=device, precision=precision)
        # verify_release has just checked these files.
        index = VectorIndex.load(directory / INDEX_NAME, device=index_device, verify=False)
        rows = ReleaseRows(directory / ROWS_NAME)
    except (InvalidArtifact, VectorIndexError, pa.ArrowException, KeyError) as error:
        raise InvalidRelease(f"release {release_id} is refused: {error}") from error
    if not embedder.space_id == index.space_id == facts["space_id"]:
        raise InvalidRelease(
            f"release {release_id} is refused: the model's embedding space is {embedder.space_id}, the index's "
            f"{index.space_id} and the manifest's {facts['space_id']}"
        )
    if len(rows) != index.num_rows or rows.image_ids() != index.image_ids():
        raise InvalidRelease(f"release {release_id} is refused: {ROWS_NAME} does not match the index")
    return LoadedRelease(release_id, facts, embedder, index, rows)


@contextmanager
def _write_errors(releases_dir: Path) -> Iterator[None]:
    """Turn the errors of a full disk or missing permissions into ReleaseError; faiss raises RuntimeError for them."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ReleaseError(
            f"the release cannot be written below {releases_dir} and nothing of it remains: {error}; free disk "
            "space or repair the permissions, then build again: the stored embeddings are reused"
        ) from error


def _write_rows(path: Path, images: list[CatalogueImage]) -> None:
    # The index orders its entries by image id.
    ordered = sorted(images, key=lambda image: image.image_id)
    table = pa.Table.from_pylist([_row(image) for image in ordered], schema=_ROWS_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _ROWS_SCHEMA) as writer:
        writer.write_table(table)


def _row(image: CatalogueImage) -> dict[str, str]:
    return {
        "image_id": image.image_id,
        "product_id": image.product_id,
        "title": image.title,
        "attributes": json.dumps(image.attributes, ensure_ascii=False),
        "media_name": str(image.media_name),
    }
