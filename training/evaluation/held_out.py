"""Evaluation of a model on held-out images: photos against the catalogue, or a set against itself.

Shape legend: Q queries, G gallery images, N images of the snapshot, D embedding dimension.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.snapshot import Snapshot, class_ids
from training.data.splits import HeldOut
from training.evaluation.clustering import evaluate_clustering
from training.evaluation.metrics import RetrievalResult
from training.evaluation.retrieval import evaluate_retrieval, summarise

Embed = Callable[[NDArray[np.int64]], NDArray[np.float32]]
Record = dict[str, Any]

MEAN_OF_PARTS = "mean_of_parts_recall_at_1"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The results of a model on held-out images."""

    result: RetrievalResult
    metrics: dict[str, dict[str, float]]  # "all", "seen", "unseen"

    def flat(self) -> Record:
        """Return the metrics of all queries by name, and those of each part with the part's name as a prefix."""
        record: Record = dict(self.metrics["all"])
        for part in ("seen", "unseen"):
            record |= {f"{part}_{name}": value for name, value in self.metrics.get(part, {}).items()}
        return record


def measure(
    embed: Embed,
    snapshot: Snapshot,
    held_out: HeldOut,
    *,
    ks: tuple[int, ...] = (1, 2, 4, 8),
    num_neighbours: int = 0,
    device: str = "cpu",
) -> Measurement:
    """Embed queries and gallery and search; `embed` maps positions in the snapshot to unit rows [n, D]."""
    labels = class_ids(snapshot.labels)
    queries_QD = embed(held_out.query)
    gallery_GD = None if held_out.gallery is None else embed(held_out.gallery)
    result = evaluate_retrieval(
        queries_QD,
        labels[held_out.query],
        gallery_GD,
        None if held_out.gallery is None else labels[held_out.gallery],
        ks=ks,
        num_neighbours=num_neighbours,
        device=device,
    )
    return Measurement(result, summarise(result, held_out.is_unseen))


def deciding_metric(name: str, metrics: Record) -> str:
    """Return the metric that selects a model; "auto" weighs seen and unseen classes equally if both exist."""
    if name != "auto":
        return name
    return MEAN_OF_PARTS if MEAN_OF_PARTS in metrics else "map_at_r"


def cluster(embed: Embed, snapshot: Snapshot, held_out: HeldOut, *, seed: int) -> Record:
    """Cluster the queries with k-means into as many clusters as they have classes."""
    result = evaluate_clustering(embed(held_out.query), class_ids(snapshot.labels)[held_out.query], seed=seed)
    return dataclasses.asdict(result)


def per_class(snapshot: Snapshot, held_out: HeldOut, before: Measurement, after: Measurement) -> list[Record]:
    """Return recall@1 of each class of the queries, before and after."""
    labels = np.array(snapshot.labels)[held_out.query]
    unseen = set(labels[held_out.is_unseen].tolist())
    befores, afters = before.result.per_class(labels), after.result.per_class(labels)
    return [
        {
            "label": str(label),
            "is_unseen": label in unseen,
            "num_queries": summary.num_queries,
            "before": befores[label].recall[1],
            "after": summary.recall[1],
        }
        for label, summary in afters.items()
    ]


def describe_protocol(held_out: HeldOut) -> str:
    """Describe the queries and the gallery in words."""
    num_unseen = int(held_out.is_unseen.sum())
    queries = f"{len(held_out.query):,} queries, {num_unseen:,} of them of classes never trained on"
    if held_out.gallery is None:
        return f"{queries}; searched among themselves, each excluded from its own answer"
    return f"{queries}; searched among {len(held_out.gallery):,} catalogue images"
