"""Evaluation of a checkpoint on labelled images: what `akin evaluate` calls."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding.checkpoint import load_embedder, read_checkpoint_facts
from embedding.cores import available_cores
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.errors import InvalidImage
from embedding.runtimes.choice import choose_runtime
from embedding.runtimes.options import NetworkOptions
from training.config import config_from_tables
from training.data.fitness import nothing_to_find
from training.data.held_out_shares import Images
from training.data.prefetch import map_ahead
from training.data.snapshot import Snapshot, open_training_data
from training.data.splits import HeldOut, is_held_out_by_hash, split_snapshot
from training.datasets.folders import Layout
from training.errors import InvalidConfig, UnfitData
from training.evaluation.bounds import bounded
from training.evaluation.held_out import cluster, describe_protocol, measure
from training.running.networks import options_for
from training.running.preparation import OnProgress

PARTS = ("test", "validation", "all")

_MAX_DECODERS = 16
_ALL = "use --part all, which holds nothing out"


def evaluate_checkpoint(
    checkpoint: Path,
    data: Path,
    *,
    part: str = "test",
    overrides: Sequence[str] = (),
    ks: tuple[int, ...] = (1, 2, 4, 8),
    clustering: bool = False,
    network: NetworkOptions | None = None,
    layout: Layout = "auto",
    on_progress: OnProgress = lambda _stage, _done, _total: None,
) -> dict[str, Any]:
    """Return protocol, metrics of all, seen and unseen queries, and recall@1 of each class.

    With part "all" nothing is held out: examples are searched among catalogue images if the images have roles, else
    every image among all others. Raises TrainingError and EmbeddingError.
    """
    network = network or NetworkOptions()
    if part not in PARTS:
        raise InvalidConfig(f"the part must be one of {', '.join(PARTS)}; got {part!r}")
    # Before the images are read, which may take minutes.
    read_checkpoint_facts(checkpoint)
    choose_runtime(network)
    snapshot = open_training_data(data, lambda done, total: on_progress("Reading", done, total), layout=layout)
    held_out = _held_out(snapshot, part, overrides)
    needed = held_out.query if held_out.gallery is None else np.union1d(held_out.query, held_out.gallery)
    embedder = load_embedder(checkpoint, options_for(network, len(needed)))
    embeddings, failures = _embed(embedder, snapshot, needed, on_progress)
    held_out = _readable(held_out, failures)

    def embed(positions: NDArray[np.int64]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = embeddings[np.searchsorted(needed, positions)]
        return rows

    measured = measure(embed, snapshot, held_out, ks=tuple(sorted({1, *ks})), device=str(embedder.device))
    labels = np.array(snapshot.labels)[held_out.query]
    unseen = set(labels[held_out.is_unseen].tolist())
    return {
        "checkpoint": str(checkpoint),
        "space_id": embedder.space_id,
        "snapshot_hash": snapshot.snapshot_hash,
        "part": part,
        "protocol": describe_protocol(held_out),
        "metrics": measured.metrics,
        "clustering": cluster(embed, snapshot, held_out, seed=0) if clustering else None,
        "per_class": [
            {
                "label": str(label),
                "is_unseen": label in unseen,
                "num_queries": summary.num_queries,
                "recall_at_1": summary.recall[1],
            }
            for label, summary in measured.result.per_class(labels).items()
        ],
        "unreadable": [snapshot.images[position].location for position in failures],
    }


def _held_out(snapshot: Snapshot, part: str, overrides: Sequence[str]) -> HeldOut:
    if part == "all":
        roles = np.array([image.role for image in snapshot.images])
        everything = np.arange(len(roles), dtype=np.int64)
        query = everything[roles == "example"] if snapshot.has_roles else everything
        gallery = everything[roles == "catalogue"] if snapshot.has_roles else None
        return _measurable(snapshot, HeldOut(query, gallery, np.zeros(len(query), np.bool_)), "evaluated", {})
    for override in overrides:
        if not override.startswith("split."):
            raise InvalidConfig(f"only settings of the split change an evaluation; got --set {override}")
    config = config_from_tables({}, overrides)
    split = split_snapshot(snapshot, config.split, is_for_training=False)
    held_out = split.test if part == "test" else split.validation
    if held_out is None:
        raise UnfitData(f"the split has no {part} part", "", {"split": f"change its shares (--set split.…), {_ALL}"})
    held_out = _measurable(snapshot, held_out, part, {"part": _ALL})
    is_by_hash = is_held_out_by_hash(snapshot, config.split)
    return bounded(snapshot, held_out, config.evaluation.bounds) if is_by_hash else held_out


def _measurable(snapshot: Snapshot, held_out: HeldOut, what: str, advice: dict[str, str]) -> HeldOut:
    """Return what is to be measured; raises UnfitData if every search succeeds, or none can."""
    images = Images(snapshot)
    searched = images.ids[held_out.query if held_out.gallery is None else held_out.gallery]
    if len(searched) and (searched == searched[0]).all():
        is_all = len(images.classes) == 1
        which = f"all {len(searched):,} {'images' if is_all else f'images of the {what} part'}"
        raise UnfitData(
            f"{which} are of one class, {images.classes[searched[0]]!r}, so every search finds an image of its class",
            "add images of other classes",
            {} if is_all else advice,
        )
    if images.any_relevant(held_out.query, held_out.gallery):
        return held_out
    reason = nothing_to_find(images, held_out.query, held_out.gallery, what)
    # Single images have nothing to find in any part.
    is_single = (np.bincount(images.ids) == 1).all()
    raise UnfitData(reason.cause, reason.remedy, {} if is_single else advice)


def _embed(
    embedder: Embedder, snapshot: Snapshot, positions: NDArray[np.int64], on_progress: OnProgress
) -> tuple[NDArray[np.float32], list[int]]:
    """Return the embeddings of images, and the positions of unreadable ones; the next images are decoded meanwhile."""

    def pixels_of(position: np.int64) -> NDArray[np.uint8] | None:
        try:
            return embedder.to_pixels(decode_image(snapshot.images[position].path.read_bytes()))
        except InvalidImage:
            return None

    embeddings = np.zeros((len(positions), embedder.embedding_dim), np.float32)
    failures: list[int] = []
    with (
        ThreadPoolExecutor(min(available_cores(), _MAX_DECODERS), "decode") as pool,
        closing(map_ahead(pool, pixels_of, positions, 2 * embedder.batch_size)) as decoded,
    ):
        for start in range(0, len(positions), embedder.batch_size):
            batch = list(islice(decoded, embedder.batch_size))
            rows = [start + number for number, pixels in enumerate(batch) if pixels is not None]
            failures += [int(positions[start + number]) for number, pixels in enumerate(batch) if pixels is None]
            if rows:
                embeddings[rows] = embedder.embed_pixels(np.stack([pixels for pixels in batch if pixels is not None]))
            on_progress("Embedding", start + len(batch), len(positions))
    return embeddings, failures


def _readable(held_out: HeldOut, failures: list[int]) -> HeldOut:
    is_kept = ~np.isin(held_out.query, failures)
    gallery = held_out.gallery
    if gallery is not None:
        gallery = gallery[~np.isin(gallery, failures)]
    return HeldOut(held_out.query[is_kept], gallery, held_out.is_unseen[is_kept])
