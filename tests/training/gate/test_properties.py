"""Properties of the gate that hold for any measurements."""

import json
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.gate.test_decision import CODES_OF_A_COMPARISON, LENIENT, both, decided, failing
from training.gate.decision import GatePolicy


@st.composite
def pairs(draw):
    """Any two models measured on the same queries."""
    num_queries = draw(st.integers(1, 60))
    num_unseen = draw(st.integers(0, num_queries))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    before, after = (rng.random(num_queries) < draw(st.floats(0, 1)) for _ in range(2))
    labels = [f"class {number}" for number in rng.integers(0, draw(st.integers(1, 12)), num_queries)]
    recall = draw(st.none() | st.floats(0, 1))
    return both(before, after, num_unseen=num_unseen, labels=labels, candidate={"index_recall": recall})


policies = st.builds(
    GatePolicy,
    primary=st.sampled_from(["mean_of_parts_recall_at_1", "seen_recall_at_1", "unseen_recall_at_1"]),
    confidence=st.floats(0.5, 0.999),
    min_improvement=st.floats(0, 0.5),
    min_queries=st.integers(1, 40),
    guards=st.dictionaries(st.sampled_from(["map_at_r", "r_precision", "recall_at_10"]), st.floats(0, 1)),
    max_class_drop=st.floats(0, 1),
    min_class_queries=st.integers(1, 20),
)


@settings(max_examples=60, deadline=None)
@given(pairs(), policies)
def test_a_model_that_finds_the_same_is_never_promoted(pair, policy):
    _, active = pair

    verdict = decided(replace(active, space_id="new"), active, policy)

    assert not verdict.promote
    assert "not_better" in failing(verdict)


@settings(max_examples=60, deadline=None)
@given(pairs(), policies)
def test_a_model_that_is_better_at_every_query_is_promoted(pair, policy):
    candidate, _ = pair
    size = len(candidate.labels)
    every = {"first_hit_rank": np.ones(size, int), "map_at_r": np.ones(size), "r_precision": np.ones(size)}
    none = {"first_hit_rank": np.full(size, 99), "map_at_r": np.zeros(size), "r_precision": np.zeros(size)}
    better = replace(candidate, **every, index_recall=None)

    verdict = decided(better, replace(candidate, space_id="old", **none), policy)

    is_measurable = set(failing(verdict)) <= {"few_queries"} or verdict.primary is None
    assert is_measurable
    assert verdict.promote == ("few_queries" not in failing(verdict))


@settings(max_examples=60, deadline=None)
@given(pairs(), policies)
def test_force_always_promotes(pair, policy):
    forced = replace(policy, force=True, force_reason="because")

    plain, verdict = decided(*pair, policy), decided(*pair, forced)

    assert verdict.promote
    assert verdict.is_forced == (not plain.promote)
    assert [each for each in verdict.reasons if each.code != "forced"] == list(plain.reasons)


@settings(max_examples=60, deadline=None)
@given(pairs(), policies)
def test_equal_measurements_give_equal_verdicts_with_reasons_in_a_fixed_order(pair, policy):
    verdict = decided(*pair, policy)

    again = decided(*(replace(each) for each in pair), GatePolicy.from_json(policy.to_json()))

    assert again == verdict
    order = list(dict.fromkeys(each.code for each in verdict.reasons))
    assert order == [code for code in dict.fromkeys(CODES_OF_A_COMPARISON) if code in order]
    assert verdict.promote == (failing(verdict) == [])
    assert all(each.message for each in verdict.reasons)
    json.dumps(verdict.to_json(), allow_nan=False)


def test_equally_good_models_are_rarely_promoted():
    """One in forty by the interval's lower end; slightly more with few queries, whose interval is too narrow."""
    num_queries = 40
    rng = np.random.default_rng(0)
    num_promoted = 0
    for _ in range(300):
        before = rng.random(num_queries) < 0.6
        is_changed = rng.random(num_queries) < 0.3
        after = np.where(is_changed, rng.random(num_queries) < 0.6, before)
        num_promoted += decided(*both(before, after), LENIENT).promote

    assert num_promoted / 300 < 0.055
