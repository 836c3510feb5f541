"""Bounds on an evaluation: the queries that are used, and the catalogue images that they are searched among.

All choices are by hashes of label and content, so that they are the same for every model and stable between runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.held_out_shares import share_of
from training.data.snapshot import Snapshot
from training.data.splits import HeldOut

DEFAULT_DISTRACTORS = 10_000
DEFAULT_QUERIES = 10_000
# If there are too many queries, a few classes with many images must not take the place of all others.
_MAX_QUERIES_OF_CLASS = 20


@dataclass(frozen=True, slots=True)
class EvaluationBounds:
    """The most queries, and the number of distractors: catalogue images of classes that no query asks for."""

    num_distractors: int = DEFAULT_DISTRACTORS
    max_queries: int = DEFAULT_QUERIES


def choose_queries(
    labels: Sequence[str], digests: Sequence[str], is_unseen: NDArray[np.bool_], max_queries: int
) -> NDArray[np.int64]:
    """Return the sorted rows of the queries to use, all of them if there are at most `max_queries`.

    Otherwise seen and unseen classes get half each, and what one part does not need goes to the other. Within a part
    classes are taken by the hash of their label, and of each class at most 20 queries by the hash of their content.
    """
    if len(labels) <= max_queries:
        return np.arange(len(labels), dtype=np.int64)
    parts = [_ranked(labels, digests, np.flatnonzero(mask)) for mask in (~is_unseen, is_unseen)]
    half = max_queries // 2
    num_seen = min(len(parts[0]), max(half, max_queries - len(parts[1])))
    return np.sort(np.concatenate([parts[0][:num_seen], parts[1][: max_queries - num_seen]]))


def choose_gallery(digests: Sequence[str], is_relevant: NDArray[np.bool_], num_distractors: int) -> NDArray[np.int64]:
    """Return the sorted rows of the gallery: all relevant images [N], and distractors by the hash of their content."""
    others = np.flatnonzero(~is_relevant)
    if len(others) > num_distractors:
        hashes = np.array([share_of("distractor", digests[row]) for row in others.tolist()])
        # Stable: images with the same content are taken in the order of the rows.
        others = others[np.argsort(hashes, kind="stable")[:num_distractors]]
    return np.sort(np.concatenate([np.flatnonzero(is_relevant), others]))


def bounded(snapshot: Snapshot, held_out: HeldOut, bounds: EvaluationBounds) -> HeldOut:
    """Return a part that was held out by hash, within the bounds; a small part is returned as it is."""
    images, query, gallery = snapshot.images, held_out.query, held_out.gallery
    chosen = choose_queries(
        [images[position].label for position in query],
        [images[position].sha256 for position in query],
        held_out.is_unseen,
        bounds.max_queries,
    )
    query = query[chosen]
    if gallery is not None:
        asked_for = {images[position].label for position in query}
        is_relevant = np.array([images[position].label in asked_for for position in gallery], np.bool_)
        digests = [images[position].sha256 for position in gallery]
        gallery = gallery[choose_gallery(digests, is_relevant, bounds.num_distractors)]
    return HeldOut(query, gallery, held_out.is_unseen[chosen])


def _ranked(labels: Sequence[str], digests: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of a part in the order in which they are used, without those beyond the limit of a class."""
    by_class: dict[str, list[int]] = {}
    for row in rows.tolist():
        by_class.setdefault(labels[row], []).append(row)
    ranked: list[int] = []
    for label in sorted(by_class, key=lambda name: (share_of("evaluated class", name), name)):
        of_class = sorted(by_class[label], key=lambda row: (share_of("query", digests[row]), row))
        ranked += of_class[:_MAX_QUERIES_OF_CLASS]
    return np.array(ranked, np.int64)
