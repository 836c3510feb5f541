import numpy as np
import pytest

from training.errors import InvalidEmbeddings
from training.evaluation import bootstrap
from training.evaluation.bootstrap import Interval, paired_bootstrap, stratified_paired_bootstrap


def test_a_constant_difference_is_certain():
    before = np.random.default_rng(0).random(100)

    interval = paired_bootstrap(before, before + 0.25)

    assert (interval.low, interval.mean_difference, interval.high) == pytest.approx((0.25, 0.25, 0.25))


def test_equal_evaluations_have_no_difference():
    figures = np.random.default_rng(0).random(50)

    assert paired_bootstrap(figures, figures) == Interval(0.0, 0.0, 0.0)


def test_the_interval_equals_the_normal_approximation():
    """For many queries the percentile interval is the mean ± 1.96 standard errors."""
    rng = np.random.default_rng(0)
    before = rng.random(5000)
    after = before + 0.1 + rng.standard_normal(5000)
    differences = after - before
    half_width = 1.96 * differences.std() / np.sqrt(5000)

    interval = paired_bootstrap(before, after)

    assert interval.mean_difference == pytest.approx(differences.mean())
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.06)
    assert interval.low == pytest.approx(differences.mean() - half_width, abs=0.1 * half_width)


def test_the_interval_covers_the_truth_at_its_confidence():
    rng = np.random.default_rng(0)
    truth = 0.1
    intervals = [
        paired_bootstrap(np.zeros(200), (rng.random(200) < truth).astype(float), num_samples=500, confidence=0.8)
        for _ in range(300)
    ]

    share = np.mean([interval.low <= truth <= interval.high for interval in intervals])

    assert 0.7 < share < 0.9


def test_the_seed_determines_the_draws_and_the_block_size_does_not(monkeypatch):
    before, after = np.random.default_rng(0).random((2, 300))
    whole = paired_bootstrap(before, after, seed=1)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 1000)

    assert paired_bootstrap(before, after, seed=1) == whole
    assert paired_bootstrap(before, after, seed=2) != whole


def test_queries_that_are_nan_in_both_are_excluded():
    before = np.array([0.0, np.nan, 1.0])
    after = np.array([1.0, np.nan, 1.0])

    assert paired_bootstrap(before, after).mean_difference == 0.5


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (np.zeros(3), np.zeros(4), "evaluate the same queries"),
        (np.zeros((3, 1)), np.zeros((3, 1)), "evaluate the same queries"),
        (np.array([0, np.nan]), np.array([0.0, 1]), "1 queries were left out of one"),
        (np.full(2, np.nan), np.full(2, np.nan), "nothing to compare"),
        (np.zeros(0), np.zeros(0), "nothing to compare"),
    ],
)
def test_refuses_evaluations_that_cannot_be_paired(before, after, message):
    with pytest.raises(InvalidEmbeddings, match=message):
        paired_bootstrap(before, after)


@pytest.mark.parametrize("knobs", [{"num_samples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_refuses_invalid_settings(knobs):
    with pytest.raises(ValueError, match="want num_samples"):
        paired_bootstrap(np.zeros(3), np.zeros(3), **knobs)


def test_strata_have_equal_weight():
    strata = np.repeat(["large", "small"], [90, 10])
    after = np.where(strata == "small", 1.0, 0.0)

    interval = stratified_paired_bootstrap(np.zeros(100), after, strata)

    # Every draw has ten queries of the small stratum, all of which gain one.
    assert interval == Interval(0.5, 0.5, 0.5)


def test_the_interval_of_strata_equals_the_normal_approximation():
    rng = np.random.default_rng(0)
    strata = rng.random(6000) < 0.2
    differences = rng.standard_normal(6000) * np.where(strata, 3.0, 1.0)
    parts = differences[strata], differences[~strata]
    half_width = 1.96 * np.sqrt(sum(part.var() / len(part) for part in parts)) / 2

    interval = stratified_paired_bootstrap(np.zeros(6000), differences, strata)

    assert interval.mean_difference == pytest.approx(np.mean([part.mean() for part in parts]))
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.06)


def test_one_stratum_equals_the_plain_bootstrap():
    before, after = np.random.default_rng(0).random((2, 60))

    assert stratified_paired_bootstrap(before, after, np.zeros(60)) == paired_bootstrap(before, after)


def test_a_stratum_without_valid_queries_is_excluded():
    before, after = np.random.default_rng(0).random((2, 60))
    strata = np.repeat([0, 1], [50, 10])
    before[50:] = after[50:] = np.nan

    interval = stratified_paired_bootstrap(before, after, strata)

    assert interval == paired_bootstrap(before[:50], after[:50])


def test_refuses_strata_of_another_length():
    with pytest.raises(InvalidEmbeddings, match="one per query"):
        stratified_paired_bootstrap(np.zeros(3), np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("knobs", [{"num_samples": 0}, {"confidence": 1.0}])
def test_strata_refuse_invalid_settings(knobs):
    with pytest.raises(ValueError, match="want num_samples"):
        stratified_paired_bootstrap(np.zeros(3), np.zeros(3), np.zeros(3), **knobs)
