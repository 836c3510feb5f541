"""How sure a difference between two evaluations of the same queries is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import InvalidEmbeddings

# Draws of one block: bounds the memory (32 MiB of indices), whatever the number of queries.
_DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference, and the bounds between which it lies at the confidence asked for."""

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

    Both are [Q] over the same queries in the same order, such as two results' `recall_at(1)`. Queries that are NaN in
    both were left out of both evaluations and are left out here. Queries are drawn one by one, not by class: the
    interval speaks of new queries of the same classes. Raises InvalidEmbeddings where nothing can be paired.
    """
    if num_samples < 1 or not 0 < confidence < 1:
        raise ValueError(f"want num_samples >= 1 and 0 < confidence < 1, got {num_samples} and {confidence}")
    differences = _differences(before, after)
    rng = np.random.default_rng(seed)
    samples_at_once = max(1, _DRAWS_AT_ONCE // len(differences))
    means = np.empty(num_samples)
    for start in range(0, num_samples, samples_at_once):
        size = (min(samples_at_once, num_samples - start), len(differences))
        means[start : start + size[0]] = differences[rng.integers(len(differences), size=size)].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(differences.mean()), float(low), float(high))


def _differences(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    if before.ndim != 1 or before.shape != after.shape:
        raise InvalidEmbeddings(
            f"figures of shape {before.shape} and {after.shape} cannot be paired; evaluate the same queries twice"
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
