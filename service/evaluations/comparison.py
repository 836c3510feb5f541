"""Compare two evaluations on the same queries: what has changed, how sure that is, and which images show it.

Shape legend: Q queries, N nearest kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import media_names_of
from service.evaluations.errors import EvaluationNotFound, NotComparable
from service.evaluations.records import evaluation_json, find_evaluation, measurement_path, set_path
from service.installation.installation import Installation
from service.storage.media import MediaName
from service.storage.tables.releases import Evaluation
from training.errors import InvalidEvaluation
from training.evaluation.bootstrap import Interval, paired_bootstrap, stratified_paired_bootstrap
from training.evaluation.evaluation_set import MEAN_OF_PARTS, EvaluationSet, SetImage, SetMeasurement
from training.evaluation.set_metrics import metric_of_queries

T = TypeVar("T", EvaluationSet, SetMeasurement)

DEFAULT_LIMIT = 20
METRICS = ("recall_at_1", "recall_at_10", "map_at_r")
_NUM_ANSWERS = 3  # shown of each query
_NUM_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A metric of one part in both evaluations; the difference lies between low and high at 95 % confidence."""

    part: str
    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    num_queries: int


@dataclass(frozen=True, slots=True)
class ClassChange:
    """The share of a class's queries whose first answer is right, in both evaluations."""

    label: str
    num_queries: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An image that was found; its name is None where the image is not kept any more."""

    label: str
    is_right: bool
    score: float
    media_name: str | None


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query whose first answer became right or wrong; ranks are those of the first right answer, from 1 on."""

    label: str
    is_unseen: bool
    media_name: str | None
    rank_before: int
    rank_after: int
    answers_before: tuple[Answer, ...]
    answers_after: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Evaluation `b` against evaluation `a`. A query is won when its first answer was wrong and is right, and lost
    the other way about; lists show those that changed most."""

    a: Evaluation
    b: Evaluation
    changes: tuple[MetricChange, ...]
    num_queries: int
    num_won: int
    num_lost: int
    num_unchanged: int
    classes_won: tuple[ClassChange, ...]
    classes_lost: tuple[ClassChange, ...]
    queries_won: tuple[QueryChange, ...]
    queries_lost: tuple[QueryChange, ...]

    def to_json(self) -> dict[str, object]:
        """Return the comparison as JSON has it."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("a", "b")}
        lists = {name: [asdict(item) for item in value] for name, value in values.items() if isinstance(value, tuple)}
        return {"a": evaluation_json(self.a), "b": evaluation_json(self.b), **values, **lists}


def compare_evaluations(installation: Installation, a: str, b: str, *, limit: int = DEFAULT_LIMIT) -> Comparison:
    """Compare two evaluations, each named by its id or by its release; lists have at most `limit` entries.

    Raises EvaluationNotFound, or NotComparable when they are of different sets.
    """
    with installation.database.reading() as session:
        row_a, row_b = find_evaluation(session, a), find_evaluation(session, b)
    evaluation_set = _read_set(installation, row_a, row_b)
    before, after = _read_measurement(installation, row_a), _read_measurement(installation, row_b)
    was_right, is_right = before.first_hit_rank == 1, after.first_hit_rank == 1
    won, lost = ~was_right & is_right, was_right & ~is_right
    # Those that changed most come first; equal ones in the order of the set.
    change = before.first_hit_rank - after.first_hit_rank
    shown_won = [int(row) for row in np.argsort(-change, kind="stable") if won[row]][:limit]
    shown_lost = [int(row) for row in np.argsort(change, kind="stable") if lost[row]][:limit]
    names = _media_names(installation, evaluation_set, [*shown_won, *shown_lost], (before, after))
    classes_won, classes_lost = _classes(evaluation_set, was_right, is_right, limit)

    def shown(rows: Sequence[int]) -> tuple[QueryChange, ...]:
        return tuple(_query_change(row, evaluation_set, before, after, names) for row in rows)

    return Comparison(
        a=row_a,
        b=row_b,
        changes=_changes(before, after, evaluation_set.is_unseen),
        num_queries=len(change),
        num_won=int(won.sum()),
        num_lost=int(lost.sum()),
        num_unchanged=int((was_right == is_right).sum()),
        classes_won=classes_won,
        classes_lost=classes_lost,
        queries_won=shown(shown_won),
        queries_lost=shown(shown_lost),
    )


def _read_set(installation: Installation, a: Evaluation, b: Evaluation) -> EvaluationSet:
    if a.evaluation_set_id != b.evaluation_set_id:
        raise NotComparable(
            f"evaluation {a.id} is on set {a.evaluation_set_id[:12]} ({a.num_queries} queries), evaluation {b.id} on "
            f"set {b.evaluation_set_id[:12]} ({b.num_queries} queries): their figures say nothing of each other. Each "
            "retrain measures its candidate and the active release on one set; compare two of the same set"
        )
    return _read(EvaluationSet, set_path(installation.settings, a.evaluation_set_id), a)


def _read_measurement(installation: Installation, evaluation: Evaluation) -> SetMeasurement:
    path = measurement_path(installation.settings, evaluation.id)
    measurement = _read(SetMeasurement, path, evaluation)
    if measurement.evaluation_set_id != evaluation.evaluation_set_id:
        raise _unreadable(evaluation, f"{path.name} is of set {measurement.evaluation_set_id[:12]}")
    return measurement


def _read(kind: type[T], path: Path, evaluation: Evaluation) -> T:
    try:
        return kind.read(path)
    except InvalidEvaluation as error:
        # Clients see this too: which file it is, but not where this machine keeps it.
        raise _unreadable(evaluation, str(error).replace(str(path), path.name)) from error


def _unreadable(evaluation: Evaluation, reason: str) -> EvaluationNotFound:
    return EvaluationNotFound(f"what the queries of evaluation {evaluation.id} found cannot be read: {reason}")


def _changes(before: SetMeasurement, after: SetMeasurement, is_unseen: NDArray[np.bool_]) -> tuple[MetricChange, ...]:
    parts = {"all": np.ones(len(is_unseen), np.bool_), "seen": ~is_unseen, "unseen": is_unseen}
    found = []
    for metric in METRICS:
        old, new = _values_of(before, metric), _values_of(after, metric)
        interval = stratified_paired_bootstrap(old, new, is_unseen, num_samples=_NUM_SAMPLES)
        means = (before.metrics[MEAN_OF_PARTS][metric], after.metrics[MEAN_OF_PARTS][metric])
        found.append(_change(MEAN_OF_PARTS, metric, means, interval, len(is_unseen)))
        for part, mask in parts.items():
            if mask.any():
                interval = paired_bootstrap(old[mask], new[mask], num_samples=_NUM_SAMPLES)
                means = (float(old[mask].mean()), float(new[mask].mean()))
                found.append(_change(part, metric, means, interval, int(mask.sum())))
    return tuple(found)


def _change(part: str, metric: str, means: tuple[float, float], interval: Interval, num_queries: int) -> MetricChange:
    return MetricChange(part, metric, *means, interval.mean_difference, interval.low, interval.high, num_queries)


def _values_of(measurement: SetMeasurement, metric: str) -> NDArray[np.float64]:
    return metric_of_queries(metric, measurement.first_hit_rank, measurement.r_precision, measurement.map_at_r)


def _classes(
    evaluation_set: EvaluationSet, was_right: NDArray[np.bool_], is_right: NDArray[np.bool_], limit: int
) -> tuple[tuple[ClassChange, ...], tuple[ClassChange, ...]]:
    """Return the classes that gained most queries, and those that lost most."""
    labels = np.array([query.label for query in evaluation_set.queries])
    names, class_of = np.unique(labels, return_inverse=True)
    counts, old, new = (
        np.bincount(class_of, weights=weights, minlength=len(names))
        for weights in (np.ones(len(labels)), was_right.astype(float), is_right.astype(float))
    )
    gained = new - old

    def listed(order: NDArray[np.intp], counts_here: NDArray[np.bool_]) -> tuple[ClassChange, ...]:
        return tuple(
            ClassChange(str(names[n]), int(counts[n]), float(old[n] / counts[n]), float(new[n] / counts[n]))
            for n in [n for n in order if counts_here[n]][:limit]
        )

    return (
        listed(np.argsort(-gained, kind="stable"), gained > 0),
        listed(np.argsort(gained, kind="stable"), gained < 0),
    )


def _media_names(
    installation: Installation,
    evaluation_set: EvaluationSet,
    rows: Sequence[int],
    measurements: Sequence[SetMeasurement],
) -> Mapping[str, MediaName]:
    digests = [evaluation_set.queries[row].sha256 for row in rows]
    for row in rows:
        for measurement in measurements:
            digests += [image.sha256 for image in _answers(evaluation_set, measurement, row)]
    with installation.database.reading() as session:
        return media_names_of(session, digests)


def _answers(evaluation_set: EvaluationSet, measurement: SetMeasurement, row: int) -> list[SetImage]:
    return [evaluation_set.gallery[n] for n in measurement.neighbour_rows[row][:_NUM_ANSWERS]]


def _query_change(
    row: int,
    evaluation_set: EvaluationSet,
    before: SetMeasurement,
    after: SetMeasurement,
    names: Mapping[str, MediaName],
) -> QueryChange:
    query = evaluation_set.queries[row]

    def name_of(image: SetImage) -> str | None:
        return str(names[image.sha256]) if image.sha256 in names else None

    def answers(measurement: SetMeasurement) -> tuple[Answer, ...]:
        scores = measurement.neighbour_scores[row]
        return tuple(
            Answer(image.label, image.label == query.label, round(float(score), 6), name_of(image))
            for image, score in zip(_answers(evaluation_set, measurement, row), scores, strict=False)
        )

    return QueryChange(
        label=query.label,
        is_unseen=bool(evaluation_set.is_unseen[row]),
        media_name=name_of(query),
        rank_before=int(before.first_hit_rank[row]),
        rank_after=int(after.first_hit_rank[row]),
        answers_before=answers(before),
        answers_after=answers(after),
    )
