"""Bootstrap confidence intervals of the difference between two evaluations of the same queries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import InvalidEmbeddings

# Draws per block, which bounds the memory (32 MiB of indices).
_DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference and its confidence interval."""

    mean_difference: float
    low: float
    high: float


def paired_bootstrap(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    *,
    num_samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean of `after - before` with its percentile interval over queries drawn with replacement.

    Both are [Q] over the same queries in the same order, such as `recall_at(1)` of two results. Queries that are NaN in
    both are excluded. Queries are drawn one by one, not by class, so the interval applies to new queries of the same
    classes. Raises InvalidEmbeddings if nothing can be paired.
    """
    _check_settings(num_samples, confidence)
    differences = _differences(before, after)
    means = _sample_means(differences, num_samples, np.random.default_rng(seed))
    return _interval(float(differences.mean()), means, confidence)


def stratified_paired_bootstrap(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    strata: NDArray[np.generic],
    *,
    num_samples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the mean over strata of their mean `after - before`, with its interval; strata have equal weight.

    `strata` [Q] is the stratum of each query. Queries are drawn within their stratum, which keeps its size. A stratum
    whose queries are all NaN is excluded. With one stratum the result equals `paired_bootstrap`. Raises
    InvalidEmbeddings if nothing can be paired.
    """
    _check_settings(num_samples, confidence)
    differences = _differences(before, after)
    if strata.shape != before.shape:
        raise InvalidEmbeddings(f"strata of shape {strata.shape} for {len(before)} queries; give one per query")
    kept = strata[~np.isnan(before)]
    parts = [differences[kept == name] for name in np.unique(kept)]
    rng = np.random.default_rng(seed)
    means = np.mean([_sample_means(part, num_samples, rng) for part in parts], axis=0)
    return _interval(float(np.mean([part.mean() for part in parts])), means, confidence)


def _check_settings(num_samples: int, confidence: float) -> None:
    if num_samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"want num_samples >= 1 and 0 < confidence < 1, got {num_samples} and {confidence}")


def _sample_means(differences: NDArray[np.float64], num_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    samples_at_once = max(1, _DRAWS_AT_ONCE // len(differences))
    means = np.empty(num_samples)
    for start in range(0, num_samples, samples_at_once):
        size = (min(samples_at_once, num_samples - start), len(differences))
        means[start : start + size[0]] = differences[rng.integers(len(differences), size=size)].mean(axis=1)
    return means


def _interval(mean: float, means: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(mean, float(low), float(high))


def _differences(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    if before.ndim != 1 or before.shape != after.shape:
        raise InvalidEmbeddings(
            f"values of shape {before.shape} and {after.shape} cannot be paired; evaluate the same queries twice"
        )
    num_one_sided = int((np.isnan(before) != np.isnan(after)).sum())
    if num_one_sided:
        raise InvalidEmbeddings(
            f"{num_one_sided} queries were left out of one evaluation only; evaluate both against the same gallery"
        )
    differences = (after.astype(np.float64) - before)[~np.isnan(before)]
    if not len(differences):
        raise InvalidEmbeddings("no query was counted in these evaluations; there is nothing to compare")
    return differences
