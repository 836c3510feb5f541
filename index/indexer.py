"""Build an index from embeddings, or from image bytes and an embedder.

Shape legend: N rows or images, D embedding dimension, H height, W width.
"""

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import new_artifact, read_manifest
from embedding.bulk import BulkOptions, embed_images
from embedding.embedder import ImageEmbedder
from index.candidates import ExactCandidates, IVFCandidates, open_ivf
from index.facts import AnnRecall, IndexFacts
from index.faiss_library import faiss_build
from index.ivf import write_ivf
from index.quality import choose_nprobe, require_ann_recall
from index.row_search import RowSearch
from index.storage import KIND, STRUCTURE_NAME, IndexEntry, open_embeddings, write_embeddings, write_entries
from index.structures import IndexOptions, Structure, choose_structure

__all__ = ["IndexEntry", "IndexImage", "IndexedImages", "build_index", "index_images"]

log = logging.getLogger(__name__)

# Exact search has a recall of 1 by design, so fewer queries are enough to confirm it.
_NUM_QUERIES_EXACT = 100
_NUM_QUERIES_IVF = 500


@dataclass(frozen=True, slots=True)
class IndexImage:
    """An image to index; `attributes` are JSON values for filters."""

    image_id: str
    product_id: str
    image_bytes: bytes
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IndexedImages:
    """The facts of the index, and the ids and errors of the images that could not be decoded."""

    facts: IndexFacts
    failures: list[tuple[str, Exception]]


def build_index(
    directory: Path,
    entries: Sequence[IndexEntry],
    embeddings_ND: NDArray[np.float32],
    *,
    space_id: str,
    options: IndexOptions | None = None,
) -> IndexFacts:
    """Write the index `directory` atomically; it may lie within the draft of another artifact.

    Entry i belongs to row i of `embeddings_ND`, float32 of unit length; the order of the input does not matter. Raises
    ValueError for invalid rows, LowRecall when the recall is below the threshold, and FileExistsError when `directory`
    exists.
    """
    started = time.monotonic()
    options = options or IndexOptions()
    order = _order_of(entries, embeddings_ND)
    ordered = [entries[number] for number in order]
    num_rows, embedding_dim = embeddings_ND.shape
    structure = choose_structure(num_rows, embedding_dim, options)
    with new_artifact(directory, KIND) as draft:
        write_embeddings(draft.path, embeddings_ND, order, [entry.image_id for entry in ordered])
        num_products = write_entries(draft.path, ordered)
        structure, ann_recall = _write_structure(draft.path, structure, options)
        facts = IndexFacts(
            index_id="",
            space_id=space_id,
            structure=structure,
            num_rows=num_rows,
            num_products=num_products,
            embedding_dim=embedding_dim,
            ann_recall=ann_recall,
            faiss_version=faiss_build().version,
            build_seconds=round(time.monotonic() - started, 3),
        )
        draft.facts.update(facts.manifest_facts())
    index_id = str(read_manifest(directory, KIND)["sha256"])[:16]
    log.info("index %s: %d rows, %s, built in %.1f s", index_id, num_rows, structure, facts.build_seconds)
    return dataclasses.replace(facts, index_id=index_id)


def index_images(
    directory: Path,
    images: Iterable[IndexImage],
    embedder: ImageEmbedder,
    *,
    options: IndexOptions | None = None,
    bulk: BulkOptions | None = None,
) -> IndexedImages:
    """Embed images and write an index of them; images that cannot be decoded are reported and left out.

    All embeddings are kept in memory, but only a few batches of images. Raises the errors of `build_index`.
    """
    entries: list[IndexEntry] = []
    embeddings = [np.zeros((0, embedder.embedding_dim), np.float32)]
    failures: list[tuple[str, Exception]] = []
    for batch in embed_images(images, lambda image: image.image_bytes, embedder, bulk):
        entries.extend(IndexEntry(image.image_id, image.product_id, image.attributes) for image in batch.keys)
        embeddings.append(batch.embeddings)
        for image, error in batch.failures:
            log.warning("image %s is left out of the index: %s", image.image_id, error)
            failures.append((image.image_id, error))
    facts = build_index(directory, entries, np.concatenate(embeddings), space_id=embedder.space_id, options=options)
    return IndexedImages(facts, failures)


def _write_structure(directory: Path, structure: Structure, options: IndexOptions) -> tuple[Structure, AnnRecall]:
    """Write the structure file, choose nprobe if it was left open, and measure the recall; raises LowRecall."""
    embeddings_ND = open_embeddings(directory)
    if structure.name == "exact":
        exact = RowSearch(embeddings_ND, ExactCandidates(embeddings_ND))
        return structure, require_ann_recall(exact, structure, options, num_queries=_NUM_QUERIES_EXACT)
    path = directory / STRUCTURE_NAME
    write_ivf(path, embeddings_ND, structure, seed=options.seed, device=options.device)
    # The file that will be served is measured, on the CPU, which is always available.
    ivf = open_ivf(path)

    def index_with(nprobe: int) -> RowSearch:
        candidates = IVFCandidates(ivf, num_lists=structure.nlist, nprobe=nprobe)
        return RowSearch(embeddings_ND, candidates, rescore=structure.rescore)

    nprobe = structure.nprobe
    if nprobe is None:
        nprobe = choose_nprobe(embeddings_ND, index_with, structure, options, num_queries=_NUM_QUERIES_IVF)
    chosen = dataclasses.replace(structure, nprobe=nprobe)
    return chosen, require_ann_recall(index_with(nprobe), chosen, options, num_queries=_NUM_QUERIES_IVF)


def _order_of(entries: Sequence[IndexEntry], embeddings_ND: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the positions of the entries sorted by image id; raises ValueError for invalid input."""
    if embeddings_ND.ndim != 2 or embeddings_ND.dtype != np.float32:
        raise ValueError(f"embeddings must be float32 [N, D], got {embeddings_ND.dtype} {embeddings_ND.shape}")
    if len(entries) != len(embeddings_ND):
        raise ValueError(f"there are {len(entries)} entries for {len(embeddings_ND)} embeddings")
    order = sorted(range(len(entries)), key=lambda number: entries[number].image_id)
    for first, second in pairwise(order):
        if entries[first].image_id == entries[second].image_id:
            raise ValueError(f"image id {entries[first].image_id!r} occurs more than once")
    return np.array(order, np.int64)
