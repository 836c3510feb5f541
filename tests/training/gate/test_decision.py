"""Each rule of the gate at its boundary."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from training.evaluation.bootstrap import Interval
from training.evaluation.evaluation_set import EvaluationSet, SetImage, measure
from training.gate.decision import GatePolicy, Measured, decide

LENIENT = GatePolicy(guards={}, max_class_drop=1.0)
CODES_OF_A_COMPARISON = [
    "few_queries", "not_better", "part_worse", "part_worse", "metric_drop", "class_drop", "slower", "index_recall",
]  # fmt: skip


def measured(hits, *, num_unseen=0, space_id="a", labels=None, map_at_r=None, **changed):
    """Measurements of a model with recall@1 of `hits` [Q]; the last queries are of unseen classes."""
    hits = np.asarray(hits, bool)
    keys = tuple(f"{number:064x}" for number in range(len(hits)))
    average = np.where(hits, 0.8, 0.2) if map_at_r is None else np.broadcast_to(map_at_r, hits.shape).astype(float)
    return Measured(
        space_id=space_id,
        evaluation_set_id="set",
        query_keys=keys,
        labels=tuple(labels) if labels is not None else tuple(f"class {n // 3}" for n in range(len(hits))),
        is_unseen=np.arange(len(hits)) >= len(hits) - num_unseen,
        first_hit_rank=np.where(hits, 1, 3),
        r_precision=average,
        map_at_r=average,
        **changed,
    )


def decided(*arguments):
    """Decide; not annotated, since nothing is None in these tests."""
    return decide(*arguments)


def first(number, of):
    return np.arange(of) < number


def both(before, after, *, num_unseen=0, labels=None, candidate=None, active=None):
    """Decide between two models by their hits."""
    made = {"num_unseen": num_unseen, "labels": labels}
    return (
        measured(after, space_id="new", **made, **(candidate or {})),
        measured(before, space_id="old", **made, **(active or {})),
    )


def reason(verdict, code, **figures):
    (found,) = [
        each
        for each in verdict.reasons
        if each.code == code and all(each.figures.get(name) == value for name, value in figures.items())
    ]
    return found


def failing(verdict):
    return [each.code for each in verdict.reasons if not each.is_met]


def test_a_model_that_finds_more_is_promoted():
    verdict = decided(*both(first(50, 100), first(75, 100), num_unseen=40), GatePolicy())

    assert (verdict.promote, verdict.is_forced, failing(verdict)) == (True, False, [])
    assert [each.code for each in verdict.reasons] == CODES_OF_A_COMPARISON
    assert verdict.primary.low > 0
    assert {name: (part.num_queries, part.before, part.after) for name, part in verdict.parts.items()} == {
        "seen": (60, pytest.approx(50 / 60), 1.0), "unseen": (40, 0.0, pytest.approx(15 / 40))
    }  # fmt: skip


def test_without_an_active_release_the_candidate_is_promoted():
    verdict = decided(measured(first(0, 3)), None, GatePolicy())

    assert verdict.promote
    assert [each.code for each in verdict.reasons] == ["no_active_release", "index_recall"]
    assert (verdict.primary, verdict.parts) == (None, {})


def test_without_an_active_release_the_index_recall_is_still_required():
    verdict = decided(measured(first(3, 3), index_recall=0.9), None, GatePolicy())

    assert not verdict.promote
    assert failing(verdict) == ["index_recall"]


def test_the_active_model_itself_is_not_promoted():
    candidate, active = both(first(5, 50), first(50, 50))

    verdict = decided(replace(candidate, space_id="old"), active, GatePolicy())

    assert not verdict.promote
    assert [each.code for each in verdict.reasons] == ["same_model", "index_recall"]


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluation_set_id": "another"},
        {"query_keys": tuple(f"{number:064x}" for number in reversed(range(40)))},
        {"labels": ("x",) * 40},
        {"is_unseen": np.ones(40, bool)},
    ],
)
def test_measurements_on_other_queries_are_refused(changed):
    candidate, active = both(first(5, 40), first(30, 40))

    with pytest.raises(ValueError, match=r"different evaluation sets|queries of the two measurements differ"):
        decided(replace(candidate, **changed), active, GatePolicy())


def test_a_certain_improvement_exceeds_any_minimum():
    verdict = decided(*both(first(0, 40), first(40, 40)), replace(LENIENT, min_improvement=0.999))

    assert verdict.primary == Interval(1.0, 1.0, 1.0)
    assert verdict.promote


def test_an_improvement_of_exactly_the_minimum_is_not_enough():
    """If all unseen and no seen queries gain, every draw gains one half."""
    verdict = decided(*both(first(0, 80), ~first(40, 80), num_unseen=40), replace(LENIENT, min_improvement=0.5))
    slightly_less = replace(LENIENT, min_improvement=0.4999)

    assert verdict.primary == Interval(0.5, 0.5, 0.5)
    assert failing(verdict) == ["not_better"]
    assert decided(*both(first(0, 80), ~first(40, 80), num_unseen=40), slightly_less).promote


def test_an_improvement_within_chance_is_rejected():
    before = first(100, 200)
    after = before.copy()
    after[:5] = False
    after[-8:] = True

    verdict = decided(*both(before, after), LENIENT)

    assert verdict.primary.mean_difference > 0 > verdict.primary.low
    assert failing(verdict) == ["not_better"]
    assert "has to exceed 0" in reason(verdict, "not_better").message


@pytest.mark.parametrize("primary", ["seen_recall_at_1", "unseen_recall_at_1"])
def test_a_single_part_may_be_primary(primary):
    """The seen part gains, the unseen part does not change."""
    pair = both(first(0, 80), first(30, 80), num_unseen=40)

    verdict = decided(*pair, replace(LENIENT, primary=primary))

    assert verdict.promote == (primary == "seen_recall_at_1")
    assert verdict.primary == verdict.parts[primary.split("_")[0]].interval


def test_a_primary_part_without_queries_is_named():
    verdict = decided(*both(first(0, 80), first(80, 80)), replace(LENIENT, primary="unseen_recall_at_1"))

    assert not verdict.promote
    assert verdict.primary is None
    assert "no queries of unseen classes" in reason(verdict, "not_better").message
    assert not reason(verdict, "few_queries").is_met


def test_a_part_without_queries_is_excluded_from_the_mean():
    verdict = decided(*both(first(0, 40), first(30, 40)), LENIENT)

    assert verdict.promote
    assert verdict.primary.mean_difference == pytest.approx(0.75)
    assert set(verdict.parts) == {"seen"}


def test_a_part_that_got_worse_rejects_the_candidate():
    before = np.concatenate([np.zeros(100, bool), first(40, 60)])
    after = np.concatenate([np.ones(100, bool), first(25, 60)])

    verdict = decided(*both(before, after, num_unseen=60), LENIENT)

    assert verdict.primary.low > 0
    assert failing(verdict) == ["part_worse"]
    assert not reason(verdict, "part_worse", part="unseen").is_met
    assert reason(verdict, "part_worse", part="seen").is_met


def test_a_part_that_got_worse_within_chance_is_allowed():
    before = np.concatenate([np.zeros(100, bool), first(30, 60)])
    after = np.concatenate([np.ones(100, bool), first(29, 60)])

    verdict = decided(*both(before, after, num_unseen=60), LENIENT)

    assert verdict.parts["unseen"].interval.mean_difference < 0
    assert verdict.promote


@pytest.mark.parametrize(("num_unseen", "is_met"), [(5, True), (6, False)])
def test_fewer_than_six_queries_cannot_show_that_a_part_got_worse(num_unseen, is_met):
    before = np.concatenate([np.zeros(100, bool), np.ones(num_unseen, bool)])

    verdict = decided(*both(before, ~before, num_unseen=num_unseen), LENIENT)

    assert reason(verdict, "part_worse", part="unseen").is_met == is_met


@pytest.mark.parametrize(("number", "promote"), [(1, False), (19, False), (20, True), (21, True)])
def test_too_few_queries_reject_the_candidate(number, promote):
    verdict = decided(*both(first(0, number), first(number, number)), LENIENT)

    assert verdict.promote == promote
    assert reason(verdict, "few_queries").is_met == promote
    if not promote:
        assert "label more examples" in reason(verdict, "few_queries").message


def test_queries_of_both_parts_count_together():
    verdict = decided(*both(first(0, 24), first(24, 24), num_unseen=12), LENIENT)

    assert verdict.promote
    assert reason(verdict, "few_queries").figures == {"num_seen": 12, "num_unseen": 12, "min_queries": 20}


def test_a_part_of_one_query_does_not_weigh_as_much_as_the_other():
    """In a mean of parts the gain would be a certain one half."""
    verdict = decided(*both(first(0, 101), ~first(100, 101), num_unseen=1), LENIENT)

    assert not verdict.promote
    assert verdict.primary.mean_difference == pytest.approx(1 / 101)
    assert "every query weighs the same" in reason(verdict, "few_queries").message


@pytest.mark.parametrize(("num_unseen", "mean"), [(19, 19 / 119), (20, 0.5)])
def test_parts_have_equal_weight_if_both_have_enough_queries(num_unseen, mean):
    verdict = decided(*both(first(0, 100 + num_unseen), ~first(100, 100 + num_unseen), num_unseen=num_unseen), LENIENT)

    assert verdict.primary.mean_difference == pytest.approx(mean)


@pytest.mark.parametrize(("fall", "is_met"), [(0.0199, True), (0.02, True), (0.0201, False), (-0.3, True)])
def test_a_guarded_metric_may_fall_by_the_allowed_drop(fall, is_met):
    candidate, active = both(
        first(0, 100), first(60, 100), candidate={"map_at_r": 0.5 - fall}, active={"map_at_r": 0.5}
    )

    verdict = decided(candidate, active, GatePolicy())

    assert verdict.promote == is_met
    assert reason(verdict, "metric_drop").is_met == is_met


def test_guards_are_checked_one_by_one_in_the_order_of_their_names():
    candidate, active = both(first(0, 100), first(60, 100), candidate={"map_at_r": 0.1}, active={"map_at_r": 0.5})
    policy = replace(LENIENT, guards={"recall_at_4": 0.0, "map_at_r": 0.3, "r_precision": 0.5})

    verdict = decided(candidate, active, policy)

    found = [(each.figures["metric"], each.is_met) for each in verdict.reasons if each.code == "metric_drop"]
    assert found == [("map_at_r", False), ("r_precision", True), ("recall_at_4", True)]


def test_a_guard_checks_the_mean_of_parts():
    """The unseen part's fall of 0.1 is 0.05 of the mean, however few of the queries it has."""
    before, after = np.full(120, 0.5), np.full(120, 0.5)
    after[-20:] = 0.4
    pair = both(
        first(0, 120), first(100, 120), num_unseen=20, candidate={"map_at_r": after}, active={"map_at_r": before}
    )

    figures = reason(decided(*pair, GatePolicy()), "metric_drop").figures

    assert figures["before"] - figures["after"] == pytest.approx(0.05)


def class_that_loses(num_lost, num_queries, num_others=100):
    """One class of `num_queries` loses some of its hits; queries of small classes gain."""
    labels = ["loser"] * num_queries + [f"other {n}" for n in range(num_others)]
    before = first(num_queries, num_queries + num_others)
    after = np.concatenate([~first(num_lost, num_queries), np.ones(num_others, bool)])
    return both(before, after, labels=labels)


@pytest.mark.parametrize(("num_lost", "is_met"), [(4, True), (5, True), (6, False)])
def test_a_single_class_may_lose_the_allowed_drop(num_lost, is_met):
    verdict = decided(*class_that_loses(num_lost, 10), GatePolicy())

    assert verdict.promote == is_met
    found = reason(verdict, "class_drop")
    assert (found.is_met, found.figures["label"], found.figures["drop"]) == (is_met, "loser", num_lost / 10)


@pytest.mark.parametrize(("num_queries", "is_met"), [(9, True), (10, False)])
def test_a_class_of_few_queries_is_not_checked(num_queries, is_met):
    verdict = decided(*class_that_loses(num_queries, num_queries), GatePolicy())

    assert reason(verdict, "class_drop").is_met == is_met


def test_classes_that_gain_are_no_drop():
    verdict = decided(*both(first(0, 40), first(40, 40), labels=["one"] * 20 + ["two"] * 20), GatePolicy())

    assert "no class" in reason(verdict, "class_drop").message


@pytest.mark.parametrize(
    ("before", "after", "is_met"), [(10, 14.99, True), (10, 15, True), (10, 15.01, False), (10, 2, True)]
)
def test_a_model_may_be_slower_by_the_allowed_ratio(before, after, is_met):
    pair = both(
        first(0, 40), first(40, 40),
        candidate={"latency_milliseconds": after}, active={"latency_milliseconds": before},
    )  # fmt: skip

    verdict = decided(*pair, GatePolicy())

    assert verdict.promote == reason(verdict, "slower").is_met == is_met
    assert reason(verdict, "slower").figures["ratio"] == pytest.approx(after / before)


@pytest.mark.parametrize("known", ["candidate", "active"])
def test_a_latency_that_was_not_measured_is_not_compared(known):
    verdict = decided(*both(first(0, 40), first(40, 40), **{known: {"latency_milliseconds": 3.0}}), GatePolicy())

    assert verdict.promote
    assert reason(verdict, "slower").figures["is_checked"] is False


@pytest.mark.parametrize(("recall", "is_met"), [(None, True), (0.9499, False), (0.95, True), (1.0, True)])
def test_the_index_needs_the_minimum_recall(recall, is_met):
    verdict = decided(*both(first(0, 40), first(40, 40), candidate={"index_recall": recall}), GatePolicy())

    assert verdict.promote == reason(verdict, "index_recall").is_met == is_met
    assert reason(verdict, "index_recall").figures["is_checked"] == (recall is not None)


def test_force_promotes_and_lists_the_failed_checks():
    pair = both(first(40, 40), first(0, 40), candidate={"index_recall": 0.1})

    verdict = decided(*pair, GatePolicy(force=True, force_reason="the shop closes at noon"))

    assert (verdict.promote, verdict.is_forced) == (True, True)
    assert failing(verdict) == ["not_better", "part_worse", "metric_drop", "index_recall"]
    assert verdict.reasons[-1].code == "forced"
    assert "the shop closes at noon" in verdict.reasons[-1].message


def test_force_is_not_reported_if_no_check_failed():
    verdict = decided(*both(first(0, 40), first(40, 40)), GatePolicy(force=True, force_reason="just in case"))

    assert (verdict.promote, verdict.is_forced) == (True, False)
    assert "forced" not in [each.code for each in verdict.reasons]


def test_a_verdict_is_plain_json():
    verdict = decided(*both(first(5, 60), first(50, 60), num_unseen=30), GatePolicy())

    value = json.loads(json.dumps(verdict.to_json(), allow_nan=False))

    assert value["promote"] is True
    assert value["primary"]["low"] == verdict.primary.low
    assert value["parts"]["seen"]["interval"]["high"] == verdict.parts["seen"].interval.high
    assert [each["code"] for each in value["reasons"]] == CODES_OF_A_COMPARISON


def evaluation_set():
    images = [SetImage(f"{number:064x}", label, "example", str(number)) for number, label in enumerate("aabb")]
    return EvaluationSet.of(images, images[::2], np.array([False, False, True, True]), np.array([0, -1, 1, -1]))


def test_figures_are_made_of_a_measurement_and_its_set():
    made = EvaluationSet.of(
        [SetImage(f"{n:064x}", label, "example", str(n)) for n, label in enumerate("ab")],
        [SetImage(f"{n:064x}", label, "catalogue", str(n)) for n, label in enumerate("ab", start=5)],
        np.array([False, True]),
        np.array([-1, -1]),
    )
    measurement = measure(made, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1].copy())

    found = Measured.of(made, measurement, space_id="space", latency_milliseconds=3.5, index_recall=0.99)

    assert found.query_keys == tuple(made.query_sha256)
    assert found.labels == ("a", "b")
    assert found.metric("recall_at_1").tolist() == [0, 0]
    assert found.metric("recall_at_2").tolist() == [1, 1]
    with pytest.raises(ValueError, match="measured on evaluation set"):
        Measured.of(evaluation_set(), measurement, space_id="space")


@pytest.mark.parametrize(
    "changed",
    [
        {"first_hit_rank": np.zeros(4, int)},
        {"map_at_r": np.full(4, np.nan)},
        {"map_at_r": np.zeros(3)},
        {"labels": ("a",)},
        {"query_keys": ()},
        {"latency_milliseconds": 0.0},
        {"latency_milliseconds": float("nan")},
    ],
)
def test_invalid_measurements_are_refused(changed):
    with pytest.raises(ValueError, match=r"queries|nothing to find|latency"):
        replace(measured(first(2, 4)), **changed)


@pytest.mark.long
def test_the_gate_loads_neither_network_nor_loop():
    program = (
        "import sys, training.gate.decision; "
        "print([name for name in ('torch', 'pyarrow', 'training.loop') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
