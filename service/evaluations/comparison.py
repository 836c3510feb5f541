"""Compare two evaluations of the same queries: differences with confidence intervals, and examples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import media_names_of
from service.evaluations.errors import EvaluationNotFound, NotComparable
from service.evaluations.queries import evaluation_json, find_evaluation
from service.evaluations.records import measurement_path, set_path
from service.installation.installation import Installation
from service.storage.media import MediaName
from service.storage.tables.evaluations import Evaluation
from training.errors import InvalidEvaluation
from training.evaluation.bootstrap import Interval, paired_bootstrap, stratified_paired_bootstrap
from training.evaluation.evaluation_set import MEAN_OF_PARTS, EvaluationSet, SetImage, SetMeasurement
from training.evaluation.set_metrics import metric_of_queries

T = TypeVar("T", EvaluationSet, SetMeasurement)

DEFAULT_LIMIT = 20
METRICS = ("recall_at_1", "recall_at_10", "map_at_r")
_NUM_ANSWERS = 3  # of each listed query
_NUM_BOOTSTRAP_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class MetricChange:
    """A metric of one part in both evaluations; `low` and `high` bound the difference with 95 % confidence."""

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
    """An image that a query found; `media_name` is None if the image is no longer stored."""

    label: str
    is_right: bool
    score: float
    media_name: str | None


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query whose first answer became right or wrong; ranks are those of its first right answer, counted from 1."""

    label: str
    is_unseen: bool
    media_name: str | None
    rank_before: int
    rank_after: int
    answers_before: tuple[Answer, ...]
    answers_after: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Evaluation `b` compared with evaluation `a`.

    A query is won if its first answer is wrong in `a` and right in `b`, and lost in the opposite case. The lists are
    truncated and start with the largest changes.
    """

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
        """Return the comparison as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("a", "b")}
        lists = {name: [asdict(item) for item in value] for name, value in values.items() if isinstance(value, tuple)}
        return {"a": evaluation_json(self.a), "b": evaluation_json(self.b), **values, **lists}


def compare_evaluations(installation: Installation, a: str, b: str, *, limit: int = DEFAULT_LIMIT) -> Comparison:
    """Compare two evaluations, each given by its id or its release's; lists have at most `limit` entries.

    Raises EvaluationNotFound, and NotComparable if they are of different sets.
    """
    evaluation_a, evaluation_b = find_evaluation(installation.database, a), find_evaluation(installation.database, b)
    evaluation_set = _read_common_set(installation, evaluation_a, evaluation_b)
    before, after = _read_measurement(installation, evaluation_a), _read_measurement(installation, evaluation_b)
    was_right, is_right = before.first_hit_rank == 1, after.first_hit_rank == 1
    won, lost = ~was_right & is_right, was_right & ~is_right
    # The largest changes come first; the stable sort keeps equal ones in the order of the set.
    rank_gain = before.first_hit_rank - after.first_hit_rank
    rows_won = [int(row) for row in np.argsort(-rank_gain, kind="stable") if won[row]][:limit]
    rows_lost = [int(row) for row in np.argsort(rank_gain, kind="stable") if lost[row]][:limit]
    names = _media_names(installation, evaluation_set, [*rows_won, *rows_lost], (before, after))
    classes_won, classes_lost = _class_changes(evaluation_set, was_right, is_right, limit)

    def query_changes(rows: Sequence[int]) -> tuple[QueryChange, ...]:
        return tuple(_query_change(row, evaluation_set, before, after, names) for row in rows)

    return Comparison(
        a=evaluation_a,
        b=evaluation_b,
        changes=_metric_changes(before, after, evaluation_set.is_unseen),
        num_queries=len(rank_gain),
        num_won=int(won.sum()),
        num_lost=int(lost.sum()),
        num_unchanged=int((was_right == is_right).sum()),
        classes_won=classes_won,
        classes_lost=classes_lost,
        queries_won=query_changes(rows_won),
        queries_lost=query_changes(rows_lost),
    )


def _read_common_set(installation: Installation, a: Evaluation, b: Evaluation) -> EvaluationSet:
    if a.evaluation_set_id != b.evaluation_set_id:
        raise NotComparable(
            f"evaluation {a.id} is on set {a.evaluation_set_id[:12]} ({a.num_queries} queries), evaluation {b.id} on "
            f"set {b.evaluation_set_id[:12]} ({b.num_queries} queries): they cannot be compared. Each retrain "
            "evaluates its candidate and the active release on one set; choose two evaluations of the same set"
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
        # Clients see the message: it names the file but does not disclose its location.
        raise _unreadable(evaluation, str(error).replace(str(path), path.name)) from error


def _unreadable(evaluation: Evaluation, reason: str) -> EvaluationNotFound:
    return EvaluationNotFound(f"the results of evaluation {evaluation.id} cannot be read: {reason}")


def _metric_changes(
    before: SetMeasurement, after: SetMeasurement, is_unseen: NDArray[np.bool_]
) -> tuple[MetricChange, ...]:
    parts = {"all": np.ones(len(is_unseen), np.bool_), "seen": ~is_unseen, "unseen": is_unseen}
    changes = []
    for metric in METRICS:
        old, new = _query_values(before, metric), _query_values(after, metric)
        interval = stratified_paired_bootstrap(old, new, is_unseen, num_samples=_NUM_BOOTSTRAP_SAMPLES)
        means = (before.metrics[MEAN_OF_PARTS][metric], after.metrics[MEAN_OF_PARTS][metric])
        changes.append(_metric_change(MEAN_OF_PARTS, metric, means, interval, len(is_unseen)))
        for part, mask in parts.items():
            if mask.any():
                interval = paired_bootstrap(old[mask], new[mask], num_samples=_NUM_BOOTSTRAP_SAMPLES)
                means = (float(old[mask].mean()), float(new[mask].mean()))
                changes.append(_metric_change(part, metric, means, interval, int(mask.sum())))
    return tuple(changes)


def _metric_change(
    part: str, metric: str, means: tuple[float, float], interval: Interval, num_queries: int
) -> MetricChange:
    return MetricChange(part, metric, *means, interval.mean_difference, interval.low, interval.high, num_queries)


def _query_values(measurement: SetMeasurement, metric: str) -> NDArray[np.float64]:
    return metric_of_queries(metric, measurement.first_hit_rank, measurement.r_precision, measurement.map_at_r)


def _class_changes(
    evaluation_set: EvaluationSet, was_right: NDArray[np.bool_], is_right: NDArray[np.bool_], limit: int
) -> tuple[tuple[ClassChange, ...], tuple[ClassChange, ...]]:
    """Return the classes that won the most queries and those that lost the most."""
    labels = np.array([query.label for query in evaluation_set.queries])
    names, class_of = np.unique(labels, return_inverse=True)
    counts, old, new = (
        np.bincount(class_of, weights=weights, minlength=len(names))
        for weights in (np.ones(len(labels)), was_right.astype(float), is_right.astype(float))
    )
    gained = new - old

    def listed(order: NDArray[np.intp], is_changed: NDArray[np.bool_]) -> tuple[ClassChange, ...]:
        return tuple(
            ClassChange(str(names[n]), int(counts[n]), float(old[n] / counts[n]), float(new[n] / counts[n]))
            for n in [n for n in order if is_changed[n]][:limit]
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
