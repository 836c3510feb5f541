"""Evaluation sets: the queries and the gallery on which models are compared, independent of their training data.

The queries are the images that the hashes of `training.data.splits` hold out for the test. The gallery contains all
catalogue images of the queries' classes and a bounded number of others, so that a model can be measured without
embedding a large catalogue. Whether a class is unseen depends on the split alone, not on whether a model trained on
the class.

Shape legend: Q queries, G gallery images, D embedding dimension, N nearest kept.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedding.artifact import canonical_json
from training.data.fitness import nothing_to_find
from training.data.held_out_shares import Images
from training.data.snapshot import Snapshot, SnapshotImage, class_ids
from training.data.splits import Split
from training.datasets.rows import Role
from training.errors import InvalidEmbeddings, InvalidEvaluation, UnfitData
from training.evaluation.arrow_files import read_columns, write_columns
from training.evaluation.bounds import EvaluationBounds, choose_gallery, choose_queries
from training.evaluation.inputs import Embeddings
from training.evaluation.metrics import RetrievalResult
from training.evaluation.retrieval import evaluate_retrieval
from training.evaluation.set_metrics import KS

SET_KIND = "akin-evaluation/1"
MEASUREMENT_KIND = "akin-measurement/1"
NUM_NEIGHBOURS = 10
MEAN_OF_PARTS = "mean_of_parts"

_DEFAULT_BOUNDS = EvaluationBounds()


@dataclass(frozen=True, slots=True)
class SetImage:
    """One image of an evaluation set."""

    sha256: str
    label: str
    role: Role
    key: str  # the image's location in the snapshot


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """Queries, the gallery, and each query's own row, which is excluded from its answer.

    `evaluation_set_id` is a hash of everything except the keys and `num_left_out`: measurements with equal ids can be
    compared query by query, and another gallery, or another number of distractors, is another id.
    """

    queries: tuple[SetImage, ...]
    gallery: tuple[SetImage, ...]
    is_unseen: NDArray[np.bool_]  # [Q]
    own_row: NDArray[np.int64]  # [Q] the row of the gallery that is the query itself; -1 if there is none
    evaluation_set_id: str
    num_left_out: int = 0  # queries without a relevant image, which are not in `queries`

    @classmethod
    def of(
        cls,
        queries: Iterable[SetImage],
        gallery: Iterable[SetImage],
        is_unseen: NDArray[np.bool_],
        own_row: NDArray[np.int64],
        *,
        num_left_out: int = 0,
    ) -> Self:
        """Create a set, with the id computed from its content."""
        queries, gallery = tuple(queries), tuple(gallery)
        content = [
            [[image.sha256, image.label, image.role] for image in queries],
            [[image.sha256, image.label, image.role] for image in gallery],
            is_unseen.tolist(),
            own_row.tolist(),
        ]
        digest = hashlib.sha256(SET_KIND.encode() + b"\n" + canonical_json(content)).hexdigest()
        return cls(queries, gallery, is_unseen, own_row, digest, num_left_out)

    @property
    def num_distractors(self) -> int:
        """The number of gallery images of classes that no query asks for."""
        asked_for = {image.label for image in self.queries}
        return sum(image.label not in asked_for for image in self.gallery)

    @property
    def query_sha256(self) -> list[str]:
        """The hashes of the queries' files."""
        return [image.sha256 for image in self.queries]

    @property
    def gallery_sha256(self) -> list[str]:
        """The hashes of the gallery images' files."""
        return [image.sha256 for image in self.gallery]

    def write(self, path: Path) -> None:
        """Write the set to one file; raises TrainingError if it cannot be written."""
        images = [*self.queries, *self.gallery]
        num_gallery = len(self.gallery)
        columns = {
            "sha256": pa.array([bytes.fromhex(image.sha256) for image in images], pa.binary(32)),
            "label": pa.array([image.label for image in images], pa.string()),
            "role": pa.array([image.role for image in images], pa.string()),
            "key": pa.array([image.key for image in images], pa.string()),
            "is_unseen": pa.array([*self.is_unseen.tolist(), *([False] * num_gallery)], pa.bool_()),
            "own_row": pa.array(np.concatenate([self.own_row, np.full(num_gallery, -1)]), pa.int64()),
        }
        facts = {
            "evaluation_set_id": self.evaluation_set_id,
            "num_queries": len(self.queries),
            "num_left_out": self.num_left_out,
        }
        write_columns(path, SET_KIND, facts, columns)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a set; raises InvalidEvaluation for a missing or damaged file."""
        facts, table = read_columns(path, SET_KIND)
        digests = [value.hex() for value in table["sha256"].to_pylist()]
        rows = zip(digests, *(table[name].to_pylist() for name in ("label", "role", "key")), strict=True)
        images = [SetImage(*row) for row in rows]
        num_queries = facts["num_queries"]
        is_unseen = np.array(table["is_unseen"].to_pylist()[:num_queries], np.bool_)
        own_row = table["own_row"].to_numpy()[:num_queries].astype(np.int64)
        made = cls.of(
            images[:num_queries], images[num_queries:], is_unseen, own_row, num_left_out=facts["num_left_out"]
        )
        if made.evaluation_set_id != facts["evaluation_set_id"]:
            raise InvalidEvaluation(f"the evaluation set {path} is not that of its id; take it from a backup")
        return made


def evaluation_set_of(snapshot: Snapshot, split: Split, bounds: EvaluationBounds = _DEFAULT_BOUNDS) -> EvaluationSet:
    """Create the set of a snapshot's test part: its queries, searched among a bounded part of the catalogue images.

    The gallery has all catalogue images of the queries' classes and `bounds.num_distractors` others; if the catalogue
    has fewer, all its images. In unseen classes without examples, or if there are no examples at all, catalogue images
    are the queries, each excluded from its own answer. Queries without a relevant image are omitted. Raises UnfitData
    if none is left.
    """
    images = snapshot.images
    is_catalogue = np.array([image.role == "catalogue" for image in images], np.bool_)
    query = _queries(snapshot, split)
    labels = class_ids(snapshot.labels)
    num_of_class = np.bincount(labels[is_catalogue], minlength=labels.max(initial=0) + 1)
    answered = query[num_of_class[labels[query]] - is_catalogue[query] > 0]
    if not len(answered):
        raise _nothing_to_find(snapshot, query)
    unseen = set(split.unseen_classes)
    is_unseen = np.array([images[position].label in unseen for position in answered], np.bool_)
    chosen = choose_queries(
        [images[position].label for position in answered],
        [images[position].sha256 for position in answered],
        is_unseen,
        bounds.max_queries,
    )
    kept = answered[chosen]
    catalogue = np.flatnonzero(is_catalogue)
    is_relevant = np.isin(labels[catalogue], labels[kept])
    digests = [images[position].sha256 for position in catalogue]
    gallery = catalogue[choose_gallery(digests, is_relevant, bounds.num_distractors)]
    row_of = np.full(len(images), -1)
    row_of[gallery] = np.arange(len(gallery))
    return EvaluationSet.of(
        (_set_image(images[position]) for position in kept),
        (_set_image(images[position]) for position in gallery),
        is_unseen[chosen],
        row_of[kept],
        num_left_out=len(query) - len(answered),
    )


def _nothing_to_find(snapshot: Snapshot, query: NDArray[np.int64]) -> UnfitData:
    if not len(query):
        return UnfitData(
            "no image is held out for the test, so models cannot be compared",
            "add labelled examples of products in the catalogue",
            {"split.unseen_share": "raise split.unseen_share or split.seen_example_share"},
        )
    images = Images(snapshot)
    if images.is_example.all():
        return UnfitData(
            f"none of the {len(query):,} test images can be found: the catalogue has no image of any product",
            "add catalogue images of the products that the labelled examples show",
        )
    return nothing_to_find(images, query, np.flatnonzero(~images.is_example), "test")


def _queries(snapshot: Snapshot, split: Split) -> NDArray[np.int64]:
    """Return the positions of the test queries, and of the images of unseen classes without a test query."""
    query = np.zeros(0, np.int64) if split.test is None else split.test.query
    with_query = {snapshot.images[position].label for position in query}
    without = set(split.unseen_classes) - with_query
    others = [position for position, image in enumerate(snapshot.images) if image.label in without]
    return np.union1d(query, np.array(others, np.int64))


def _set_image(image: SnapshotImage) -> SetImage:
    return SetImage(image.sha256, image.label, image.role, image.location)


@dataclass(frozen=True, slots=True, eq=False)
class SetMeasurement:
    """The results of a model for each query of an evaluation set, in the set's order."""

    evaluation_set_id: str
    num_relevant: NDArray[np.int64]  # [Q]
    first_hit_rank: NDArray[np.int64]  # [Q] the best rank is 1
    r_precision: NDArray[np.float64]  # [Q]
    map_at_r: NDArray[np.float64]  # [Q]
    neighbour_rows: NDArray[np.int64]  # [Q, N] rows of the gallery, nearest first
    neighbour_scores: NDArray[np.float32]  # [Q, N]
    # "all", "seen", "unseen" → recall_at_1 …, r_precision, map_at_r, num_queries; parts without queries are absent.
    # "mean_of_parts" → the mean over the present parts, with equal weights.
    # "all" also has num_gallery_images and num_distractors, which older measurements lack.
    metrics: Mapping[str, Mapping[str, float]]

    def write(self, path: Path) -> None:
        """Write the measurement to one file; raises TrainingError if it cannot be written."""
        num_neighbours = self.neighbour_rows.shape[1]

        def lists(values: NDArray[Any]) -> pa.Array:
            return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), num_neighbours)

        columns = {
            "num_relevant": pa.array(self.num_relevant),
            "first_hit_rank": pa.array(self.first_hit_rank),
            "r_precision": pa.array(self.r_precision),
            "map_at_r": pa.array(self.map_at_r),
            "neighbour_rows": lists(self.neighbour_rows),
            "neighbour_scores": lists(self.neighbour_scores),
        }
        facts = {"evaluation_set_id": self.evaluation_set_id, "metrics": self.metrics}
        write_columns(path, MEASUREMENT_KIND, facts, columns)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a measurement; raises InvalidEvaluation for a missing or damaged file."""
        facts, table = read_columns(path, MEASUREMENT_KIND)

        def column(name: str) -> NDArray[Any]:
            values: NDArray[Any] = table[name].to_numpy()
            return values

        def lists(name: str) -> NDArray[Any]:
            values: NDArray[Any] = table[name].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            return values

        return cls(
            facts["evaluation_set_id"],
            column("num_relevant"),
            column("first_hit_rank"),
            column("r_precision"),
            column("map_at_r"),
            lists("neighbour_rows"),
            lists("neighbour_scores"),
            facts["metrics"],
        )


def measure(
    evaluation_set: EvaluationSet, queries_QD: Embeddings, gallery_GD: Embeddings, device: str = "cpu"
) -> SetMeasurement:
    """Search the gallery exactly for each query; embeddings are in the order of the set's images.

    Raises InvalidEmbeddings for a wrong number of rows, or rows that are not of length 1.
    """
    for what, rows, images in (
        ("queries", queries_QD, evaluation_set.queries),
        ("gallery", gallery_GD, evaluation_set.gallery),
    ):
        if len(rows) != len(images):
            raise InvalidEmbeddings(f"{len(rows)} embeddings for {len(images)} images of the {what}; give one each")
    labels = class_ids([image.label for image in (*evaluation_set.queries, *evaluation_set.gallery)])
    num_queries = len(evaluation_set.queries)
    result = evaluate_retrieval(
        queries_QD,
        labels[:num_queries],
        gallery_GD,
        labels[num_queries:],
        own_rows=evaluation_set.own_row,
        ks=KS,
        num_neighbours=NUM_NEIGHBOURS,
        device=device,
    )
    return SetMeasurement(
        evaluation_set.evaluation_set_id,
        result.num_relevant,
        result.first_hit_rank,
        result.r_precision,
        result.map_at_r,
        result.neighbour_ids,
        result.neighbour_scores,
        _metrics(result, evaluation_set),
    )


def _metrics(result: RetrievalResult, evaluation_set: EvaluationSet) -> dict[str, dict[str, float]]:
    is_unseen = evaluation_set.is_unseen
    masks = {"all": np.ones(len(is_unseen), np.bool_), "seen": ~is_unseen, "unseen": is_unseen}
    metrics: dict[str, dict[str, float]] = {}
    for name, mask in masks.items():
        if mask.any():
            part = result.subset(mask).metrics()
            metrics[name] = {metric: value for metric, value in part.items() if metric != "num_left_out"}
    metrics["all"] |= {
        "num_gallery_images": len(evaluation_set.gallery),
        "num_distractors": evaluation_set.num_distractors,
    }
    parts = [metrics[name] for name in ("seen", "unseen") if name in metrics]
    metrics[MEAN_OF_PARTS] = {
        metric: sum(part[metric] for part in parts) / len(parts) for metric in parts[0] if metric != "num_queries"
    }
    return metrics
