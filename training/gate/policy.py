"""The thresholds that a new model must pass before it may answer searches."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args

from training.errors import InvalidConfig
from training.evaluation.set_metrics import METRICS, PrimaryMetric

DEFAULT_GUARDS = {"map_at_r": 0.02}


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """When a candidate is promoted; raises InvalidConfig for an invalid value.

    Attributes:
        primary: the metric that has to improve.
        confidence: the confidence of every interval.
        min_improvement: what the lower end of the primary metric's interval has to exceed.
        min_queries: the fewest queries for a decision, and for a part to weigh as much as the other part.
        guards: metric → largest allowed drop.
        max_class_drop: largest allowed drop of recall@1 of a single class.
        min_class_queries: classes with fewer queries are not checked by themselves.
        max_latency_ratio: largest allowed ratio of the candidate's to the active model's latency.
        min_index_recall: smallest allowed share of the exact answers that the new index finds.
        force: promote in spite of failed checks; requires `force_reason`.
    """

    primary: PrimaryMetric = "mean_of_parts_recall_at_1"
    confidence: float = 0.95
    min_improvement: float = 0.0
    min_queries: int = 20
    guards: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_GUARDS))
    max_class_drop: float = 0.5
    min_class_queries: int = 10
    max_latency_ratio: float = 1.5
    min_index_recall: float = 0.95
    force: bool = False
    force_reason: str = ""

    def __post_init__(self) -> None:
        if self.primary not in get_args(PrimaryMetric):
            raise _invalid("primary", f"one of {', '.join(get_args(PrimaryMetric))}", self.primary)
        # With a confidence of 50 % or less, a coin toss would count as an improvement.
        _check_number("confidence", self.confidence, "a number from 0.5 to below 1", low=0.5, below=1.0)
        _check_number("min_improvement", self.min_improvement, "a number from 0 to below 1", low=0.0, below=1.0)
        for name in ("max_class_drop", "min_index_recall"):
            _check_number(name, getattr(self, name), "a number from 0 to 1", low=0.0, high=1.0)
        _check_number("max_latency_ratio", self.max_latency_ratio, "a number above 0", above=0.0)
        for name in ("min_queries", "min_class_queries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise _invalid(name, "a whole number of at least 1", value)
        self._check_guards()
        if not isinstance(self.force, bool):
            raise _invalid("force", "true or false", self.force)
        if not isinstance(self.force_reason, str):
            raise _invalid("force_reason", "text", self.force_reason)
        if self.force and not self.force_reason.strip():
            raise _invalid("force_reason", "a text that says why the gate is overridden", self.force_reason)

    def _check_guards(self) -> None:
        if not isinstance(self.guards, Mapping):
            raise _invalid("guards", "an object of metric: largest drop", self.guards)
        for metric, drop in self.guards.items():
            if metric not in METRICS:
                raise InvalidConfig(f"policy.guards knows the metrics {', '.join(METRICS)}; got {metric!r}")
            _check_number(f"guards.{metric}", drop, "a number from 0 to 1", low=0.0, high=1.0)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Self:
        """Create a policy from the given keys and defaults; raises InvalidConfig naming key and value."""
        if not isinstance(values, Mapping):
            raise InvalidConfig(f"the policy must be an object, got {values!r}")
        known = [key.name for key in fields(cls)]
        for name in values:
            if name not in known:
                raise InvalidConfig(f"policy.{name} is unknown; the policy has {', '.join(known)}")
        chosen: dict[str, Any] = dict(values)
        return cls(**chosen)

    def to_json(self) -> dict[str, Any]:
        """Return all values by name, as `from_json` reads them."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        return {**values, "guards": dict(self.guards)}


def _check_number(
    name: str,
    value: object,
    allowed: str,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    high: float = math.inf,
    below: float = math.inf,
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(name, allowed, value)
    if not (low <= value <= high and above < value < below):
        raise _invalid(name, allowed, value)


def _invalid(name: str, allowed: str, value: object) -> InvalidConfig:
    return InvalidConfig(f"policy.{name} must be {allowed}, got {value!r}")
