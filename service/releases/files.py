"""A release on disk: everything that a search needs, in one immutable directory.

checkpoint/     the model
index/          the index over the catalogue's images
rows.arrow      what a hit shows, for each row of the index, so that a search needs no SQL
network.onnx    the network for ONNX Runtime, unless the release was built where torch runs networks
images.names    the names of the images that hits show, sorted
manifest.json   ids, watermark, evaluation; checksums of all files above
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from embedding.embedder import ImageEmbedder
from embedding.errors import InvalidArtifact
from embedding.runtimes.options import NetworkOptions
from index.errors import VectorIndexError
from index.gpu import require_gpu_memory
from index.indexer import IndexEntry, build_index
from index.storage import pieces
from index.structures import IndexOptions
from index.vector_index import VectorIndex
from service.catalogue.records import CatalogueContents, CatalogueImage
from service.releases.errors import InvalidRelease, ReleaseError, ReleaseNotFound
from service.releases.image_names import FILE_NAME as IMAGE_NAMES_NAME
from service.releases.image_names import ImageNames

KIND = "akin-release/1"
CHECKPOINT_NAME = "checkpoint"
INDEX_NAME = "index"
ROWS_NAME = "rows.arrow"
NETWORK_NAME = "network.onnx"
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
    """The rows of a release, memory-mapped and numbered as in its index; columns are read from disk on access."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._table = pa.Table.from_batches(batches, reader.schema)
        self._batches = [[batch.column(name) for name in _ROWS_SCHEMA.names] for batch in batches]
        self._ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)

    def __len__(self) -> int:
        return cast(int, self._table.num_rows)

    def __getitem__(self, row: int) -> ReleaseRow:
        return self.read([row])[0]

    def read(self, rows: Sequence[int]) -> list[ReleaseRow]:
        """Return what hits show of these rows; raises IndexError for a row outside 0..len - 1."""
        if any(not 0 <= row < len(self) for row in rows):
            raise IndexError(f"rows must be within 0..{len(self) - 1}, got {min(rows)}..{max(rows)}")
        numbers = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends])[numbers].tolist()
        found = []
        for row, number, start in zip(rows, numbers.tolist(), starts, strict=True):
            image_id, product_id, title, attributes, media_name = (
                column[row - start].as_py() for column in self._batches[number]
            )
            found.append(ReleaseRow(image_id, product_id, title, json.loads(attributes), media_name))
        return found

    def has_image_ids(self, image_ids: pa.ChunkedArray) -> bool:
        """Return whether the image ids of the rows equal these, in the same order."""
        return bool(self._table.column("image_id").equals(image_ids))

    def media_names(self) -> Iterator[list[str]]:
        """Yield the names of the rows' images in pieces: a million strings at once would stop all other threads."""
        column = self._table.column("media_name")
        for part in pieces(len(self)):
            yield column.slice(part.start, part.stop - part.start).to_pylist()


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """A release that has been verified and loaded."""

    release_id: str
    facts: Mapping[str, Any]  # of the manifest
    embedder: ImageEmbedder
    index: VectorIndex
    rows: ReleaseRows
    image_names: ImageNames


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
    exported: Path | None = None,
) -> Mapping[str, Any]:
    """Build the index and write the release atomically; return the facts of its manifest.

    Row i of `embeddings_ND` belongs to `catalogue.images[i]`. `exported` is the file of the checkpoint's exported
    network, which a release carries so that no server needs to export it. Raises LowRecall if the index misses its
    threshold.
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
        if exported is not None:
            shutil.copyfile(exported, draft.path / NETWORK_NAME)
        entries = [IndexEntry(image.image_id, image.product_id, image.attributes) for image in images]
        index_facts = build_index(
            draft.path / INDEX_NAME, entries, embeddings_ND, space_id=checkpoint_facts.space_id, options=options
        )
        _write_rows(draft.path / ROWS_NAME, images)
        ImageNames.of([[str(image.media_name) for image in images]]).write(draft.path / IMAGE_NAMES_NAME)
        draft.facts["index"] = index_facts.to_json()
    return draft.facts


def verify_release(
    releases_dir: Path, release_id: str, *, check: Callable[[], None] = lambda: None
) -> Mapping[str, Any]:
    """Verify every byte of a release and return the facts of its manifest.

    `check` is called every megabyte. Raises ReleaseNotFound, or InvalidRelease naming the damaged file.
    """
    directory = _directory_of(releases_dir, release_id)
    with _as_invalid_release(directory, release_id):
        facts = verify_artifact(directory, KIND, check=check)
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
    releases_dir: Path,
    release_id: str,
    options: NetworkOptions,
    *,
    index_device: str,
    check: Callable[[], None] = lambda: None,
) -> LoadedRelease:
    """Verify and load a release; raises ReleaseNotFound or InvalidRelease.

    `check` is called between the parts, at most about a second apart, and ends the loading by raising an exception.
    """
    directory = _directory_of(releases_dir, release_id)
    try:
        # First, since a server tries again and again, and verification reads gigabytes.
        require_gpu_memory(directory / INDEX_NAME, index_device)
        facts = verify_release(releases_dir, release_id, check=check)
        exported = directory / NETWORK_NAME
        # Releases of earlier versions, and those built for torch, lack the file.
        embedder = load_embedder(directory / CHECKPOINT_NAME, options, exported=exported if exported.exists() else None)
        check()
        # verify_release has just checked these files.
        index = VectorIndex.load(directory / INDEX_NAME, device=index_device, verify=False)
        check()
        rows = ReleaseRows(directory / ROWS_NAME)
        image_names = _open_image_names(directory, rows, check)
    except (InvalidArtifact, VectorIndexError, pa.ArrowException, KeyError) as error:
        raise InvalidRelease(f"release {release_id} is refused: {error}") from error
    if not embedder.space_id == index.space_id == facts["space_id"]:
        raise InvalidRelease(
            f"release {release_id} is refused: the model's embedding space is {embedder.space_id}, the index's "
            f"{index.space_id} and the manifest's {facts['space_id']}"
        )
    if not rows.has_image_ids(index.entries.column("image_id")):
        raise InvalidRelease(f"release {release_id} is refused: {ROWS_NAME} does not match the index")
    return LoadedRelease(release_id, facts, embedder, index, rows, image_names)


def _open_image_names(directory: Path, rows: ReleaseRows, check: Callable[[], None]) -> ImageNames:
    path = directory / IMAGE_NAMES_NAME
    # Releases of earlier versions lack the file.
    return ImageNames.open(path) if path.exists() else ImageNames.of(rows.media_names(), check=check)


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
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _ROWS_SCHEMA) as writer:
        for part in pieces(len(ordered)):
            rows = [_row(image) for image in ordered[part]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_ROWS_SCHEMA))


def _row(image: CatalogueImage) -> dict[str, str]:
    return {
        "image_id": image.image_id,
        "product_id": image.product_id,
        "title": image.title,
        "attributes": json.dumps(image.attributes, ensure_ascii=False),
        "media_name": str(image.media_name),
    }
