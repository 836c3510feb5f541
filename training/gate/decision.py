"""The gate: decide whether a new model may replace the active one, and why.

Both models are measured on the same queries against the same gallery. The candidate must be better by more than chance
explains, and not worse elsewhere. The module only computes with measurements (no files, models or clocks), so equal
measurements always give the same verdict.

Shape legend: Q queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from training.evaluation.bootstrap import Interval, paired_bootstrap, stratified_paired_bootstrap
from training.evaluation.set_metrics import metric_of_queries
from training.gate.policy import GatePolicy as GatePolicy

if TYPE_CHECKING:
    from training.evaluation.evaluation_set import EvaluationSet, SetMeasurement

Figure = float | int | str | bool | None

# Tolerance for values that are equal up to the rounding of sums.
_SLACK = 1e-9
# Five queries that all get worse can happen by chance (2 in 32); six rarely do.
_LEAST_PART_QUERIES = 6
_MORE_QUERIES = "label more examples, or force the promotion and give a reason"


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The results of a model for each query of an evaluation set, and its costs."""

    space_id: str
    evaluation_set_id: str
    query_keys: tuple[str, ...]  # SHA-256 of each query
    labels: tuple[str, ...]
    is_unseen: NDArray[np.bool_]  # [Q]
    first_hit_rank: NDArray[np.int64]  # [Q] the best rank is 1
    r_precision: NDArray[np.float64]  # [Q]
    map_at_r: NDArray[np.float64]  # [Q]
    latency_milliseconds: float | None = None  # None: not measured
    index_recall: float | None = None  # None: the index is not built yet

    def __post_init__(self) -> None:
        columns = (self.is_unseen, self.first_hit_rank, self.r_precision, self.map_at_r)
        if not self.query_keys or any(column.shape != (len(self.query_keys),) for column in columns):
            raise ValueError(f"want figures of one query or more, and each for all {len(self.query_keys)} queries")
        if len(self.labels) != len(self.query_keys):
            raise ValueError(f"{len(self.labels)} labels for {len(self.query_keys)} queries; give one each")
        if not (self.first_hit_rank >= 1).all() or not np.isfinite(self.r_precision + self.map_at_r).all():
            raise ValueError("a query has nothing to find; leave such queries out of the evaluation set")
        if self.latency_milliseconds is not None and not 0 < self.latency_milliseconds < np.inf:
            raise ValueError(f"latency_milliseconds must be above 0, got {self.latency_milliseconds}")

    @classmethod
    def of(
        cls,
        evaluation_set: "EvaluationSet",
        measurement: "SetMeasurement",
        *,
        space_id: str,
        latency_milliseconds: float | None = None,
        index_recall: float | None = None,
    ) -> Self:
        """Combine a measurement with its set; raises ValueError if it was measured on another set."""
        if measurement.evaluation_set_id != evaluation_set.evaluation_set_id:
            raise ValueError(
                f"measured on evaluation set {measurement.evaluation_set_id}, not {evaluation_set.evaluation_set_id}"
            )
        return cls(
            space_id,
            evaluation_set.evaluation_set_id,
            tuple(image.sha256 for image in evaluation_set.queries),
            tuple(image.label for image in evaluation_set.queries),
            evaluation_set.is_unseen,
            measurement.first_hit_rank,
            measurement.r_precision,
            measurement.map_at_r,
            latency_milliseconds,
            index_recall,
        )

    def metric(self, name: str) -> NDArray[np.float64]:
        """Return a metric for each query [Q]."""
        return metric_of_queries(name, self.first_hit_rank, self.r_precision, self.map_at_r)


@dataclass(frozen=True, slots=True)
class Reason:
    """One check and its outcome.

    `code` names the failure that the check looks for: same_model, few_queries, not_better, part_worse, metric_drop,
    class_drop, slower, index_recall. Two codes explain a verdict without a comparison: no_active_release and forced.
    If there was nothing to check, `is_met` is true and `figures["is_checked"]` is false.
    """

    code: str
    is_met: bool
    message: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartChange:
    """Recall@1 on the queries of one part with the active model (before) and the candidate (after)."""

    num_queries: int
    before: float
    after: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the candidate is promoted, and every check in a fixed order."""

    promote: bool
    is_forced: bool  # a check failed and the policy overrides it
    reasons: tuple[Reason, ...]
    primary: Interval | None = None  # None: no active model to compare with
    parts: Mapping[str, PartChange] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def decide(candidate: Measured, active: Measured | None, policy: GatePolicy) -> Verdict:
    """Compare the candidate with the model of the active release, if there is one.

    Raises ValueError if the two were not measured on the same queries, a bug of the caller.
    """
    primary: Interval | None = None
    parts: dict[str, PartChange] = {}
    if active is None:
        reasons = [Reason("no_active_release", True, "no release is active, so there is nothing to compare with")]
    else:
        _check_same_queries(candidate, active)
        if candidate.space_id == active.space_id:
            message = "the candidate is the active model itself; train on other data or with other settings"
            reasons = [Reason("same_model", False, message, {"space_id": candidate.space_id})]
        else:
            comparison = _Comparison(candidate, active, policy)
            primary, parts = comparison.primary, comparison.parts
            reasons = list(comparison.reasons())
    reasons.append(_index_recall(candidate, policy))
    is_passed = all(reason.is_met for reason in reasons)
    is_forced = policy.force and not is_passed
    if is_forced:
        message = f"promoted in spite of failed checks: {policy.force_reason.strip()}"
        reasons.append(Reason("forced", True, message, {"force_reason": policy.force_reason}))
    return Verdict(is_passed or is_forced, is_forced, tuple(reasons), primary, parts)


def _check_same_queries(candidate: Measured, active: Measured) -> None:
    if candidate.evaluation_set_id != active.evaluation_set_id:
        raise ValueError(
            f"measured on different evaluation sets: {candidate.evaluation_set_id} and {active.evaluation_set_id}"
        )
    if (
        candidate.query_keys != active.query_keys
        or candidate.labels != active.labels
        or not np.array_equal(candidate.is_unseen, active.is_unseen)
    ):
        raise ValueError("the queries of the two measurements differ, or are in another order")


def _index_recall(candidate: Measured, policy: GatePolicy) -> Reason:
    recall, least = candidate.index_recall, policy.min_index_recall
    figures = {"index_recall": recall, "min_index_recall": least, "is_checked": recall is not None}
    if recall is None:
        return Reason("index_recall", True, "the index is not built yet; its recall is checked once it is", figures)
    message = f"the index finds {recall:.1%} of the exact answers"
    is_met = recall >= least - _SLACK
    if not is_met:
        message += f", and {least:.1%} are required; build it with a larger search effort, or use an exact index"
    return Reason("index_recall", is_met, message, figures)


class _Comparison:
    """The candidate compared with the active model."""

    def __init__(self, candidate: Measured, active: Measured, policy: GatePolicy) -> None:
        self._candidate, self._active, self._policy = candidate, active, policy
        self._num_queries = {"seen": int((~candidate.is_unseen).sum()), "unseen": int(candidate.is_unseen.sum())}
        self._before, self._after = active.metric("recall_at_1"), candidate.metric("recall_at_1")
        sizes = [size for size in self._num_queries.values() if size]
        # Otherwise three queries of one part would have the weight of three hundred of the other.
        self._parts_weigh_alike = len(sizes) == 2 and min(sizes) >= policy.min_queries
        self.parts = {name: self._part_change(name) for name, size in self._num_queries.items() if size}
        self.primary = self._primary()

    def reasons(self) -> Iterator[Reason]:
        """Yield every check in a fixed order."""
        yield self._few_queries()
        yield self._not_better()
        for name, change in self.parts.items():
            yield self._part_worse(name, change)
        for metric in sorted(self._policy.guards):
            yield self._metric_drop(metric)
        yield self._class_drop()
        yield self._slower()

    def _mask(self, part: str) -> NDArray[np.bool_]:
        is_unseen = self._candidate.is_unseen
        return is_unseen if part == "unseen" else ~is_unseen

    def _part_change(self, part: str) -> PartChange:
        mask = self._mask(part)
        before, after = self._before[mask], self._after[mask]
        interval = paired_bootstrap(before, after, confidence=self._policy.confidence)
        return PartChange(len(before), float(before.mean()), float(after.mean()), interval)

    def _primary(self) -> Interval | None:
        if self._policy.primary != "mean_of_parts_recall_at_1":
            change = self.parts.get(self._primary_part)
            return change.interval if change else None
        is_unseen = self._candidate.is_unseen
        strata = is_unseen if self._parts_weigh_alike else np.zeros_like(is_unseen)
        return stratified_paired_bootstrap(self._before, self._after, strata, confidence=self._policy.confidence)

    @property
    def _primary_part(self) -> str:
        return self._policy.primary.removesuffix("_recall_at_1")

    def _mean(self, values: NDArray[np.float64]) -> float:
        """Return the mean over the parts, or over all queries if a part has too few."""
        if not self._parts_weigh_alike:
            return float(values.mean())
        return sum(float(values[self._mask(part)].mean()) for part in self.parts) / len(self.parts)

    def _few_queries(self) -> Reason:
        part, least = self._primary_part, self._policy.min_queries
        size = self._num_queries[part] if part in self._num_queries else sum(self._num_queries.values())
        figures = {**{f"num_{name}": number for name, number in self._num_queries.items()}, "min_queries": least}
        what = f"{size:,} queries" + (f" of {part} classes" if part in self._num_queries else "")
        if size < least:
            message = f"{what} are too few to decide, at least {least:,} are needed; {_MORE_QUERIES}"
            return Reason("few_queries", False, message, figures)
        message = f"measured with {what}"
        small = [f"{number} of {name}" for name, number in self._num_queries.items() if 0 < number < least]
        if part not in self._num_queries and small:
            message += f"; with only {small[0]} classes, every query weighs the same instead of every part"
        return Reason("few_queries", True, message, figures)

    def _not_better(self) -> Reason:
        if self.primary is None:
            part = self._primary_part
            message = (
                f"there are no queries of {part} classes, which the policy requires; label examples of such classes, "
                "or set policy.primary = 'mean_of_parts_recall_at_1'"
            )
            return Reason("not_better", False, message, {"is_checked": False})
        change = self.parts.get(self._primary_part)
        before, after = (change.before, change.after) if change else (self._mean(self._before), self._mean(self._after))
        interval, least = self.primary, self._policy.min_improvement
        is_met = interval.low > least + _SLACK
        figures = {"before": before, "after": after, **asdict(interval), "min_improvement": least}
        message = f"recall@1 of {self._primary_words()} goes from {before:.3f} to {after:.3f} ({self._words(interval)})"
        if not is_met:
            message += f"; the lower end has to exceed {least:g}"
        return Reason("not_better", is_met, message, figures)

    def _primary_words(self) -> str:
        part = self._primary_part
        if part in self._num_queries:
            return f"{part} classes"
        return "seen and unseen classes, which weigh the same," if self._parts_weigh_alike else "all queries"

    def _words(self, interval: Interval) -> str:
        confidence = f"{100 * self._policy.confidence:g} %"
        return f"{interval.mean_difference:+.3f}, {confidence} interval {interval.low:+.3f} to {interval.high:+.3f}"

    def _part_worse(self, part: str, change: PartChange) -> Reason:
        is_checked = change.num_queries >= _LEAST_PART_QUERIES
        figures = {
            "part": part, "num_queries": change.num_queries, "before": change.before, "after": change.after,
            **asdict(change.interval), "is_checked": is_checked,
        }  # fmt: skip
        if not is_checked:
            message = f"{change.num_queries} queries of {part} classes are too few to tell whether they got worse"
            return Reason("part_worse", True, message, figures)
        is_met = change.interval.high >= -_SLACK
        verb = "did not get worse" if is_met else "got worse"
        message = f"{part} classes {verb}: recall@1 from {change.before:.3f} to {change.after:.3f}"
        return Reason("part_worse", is_met, f"{message} ({self._words(change.interval)})", figures)

    def _metric_drop(self, metric: str) -> Reason:
        before, after = self._mean(self._active.metric(metric)), self._mean(self._candidate.metric(metric))
        allowed = float(self._policy.guards[metric])
        is_met = before - after <= allowed + _SLACK
        message = f"{metric} goes from {before:.3f} to {after:.3f}; it may fall by {allowed:g}"
        return Reason(
            "metric_drop", is_met, message, {"metric": metric, "before": before, "after": after, "max_drop": allowed}
        )

    def _class_drop(self) -> Reason:
        least, allowed = self._policy.min_class_queries, float(self._policy.max_class_drop)
        names, groups = np.unique(np.array(self._candidate.labels), return_inverse=True)
        sizes = np.bincount(groups)
        if not (sizes >= least).any():
            message = f"no class has {least} queries, so no class is checked by itself"
            return Reason("class_drop", True, message, {"min_class_queries": least, "is_checked": False})
        drops = np.bincount(groups, self._before - self._after) / sizes
        drops[sizes < least] = -np.inf
        # argmax returns the first of equal drops, and names are sorted.
        worst = int(drops.argmax())
        drop, label = float(drops[worst]), str(names[worst])
        is_met = drop <= allowed + _SLACK
        figures: dict[str, Figure] = {
            "label": label,
            "num_queries": int(sizes[worst]),
            "drop": drop,
            "max_class_drop": allowed,
        }
        if drop <= _SLACK:
            return Reason("class_drop", is_met, f"no class of {least} queries or more lost recall@1", figures)
        message = f"of the classes with {least} or more queries, {label!r} loses most: recall@1 falls by {drop:.3f}"
        if not is_met:
            message += f", more than the allowed {allowed:g}; check its images and labels"
        return Reason("class_drop", is_met, message, figures)

    def _slower(self) -> Reason:
        before, after = self._active.latency_milliseconds, self._candidate.latency_milliseconds
        allowed = self._policy.max_latency_ratio
        figures: dict[str, Figure] = {
            "before_milliseconds": before,
            "after_milliseconds": after,
            "max_latency_ratio": allowed,
        }
        if before is None or after is None:
            message = "the latency of the models was not measured, so it is not compared"
            return Reason("slower", True, message, {**figures, "is_checked": False})
        ratio = after / before
        is_met = ratio <= allowed + _SLACK
        message = f"an image takes {after:.1f} ms, {ratio:.2f} times the active model's {before:.1f} ms"
        if not is_met:
            message += f", more than the allowed {allowed:g} times; choose a smaller network or image size"
        return Reason("slower", is_met, message, {**figures, "ratio": ratio})
