"""The bounds on an evaluation set: which queries are used, and which images they are searched among."""

import dataclasses

import numpy as np
import pytest

from tests.training.data.test_splits import made_snapshot, plain_rows, shop_rows, split_of, stated_rows
from tests.training.evaluation.test_evaluation_set import keys, measured
from training.config import EvaluationConfig
from training.data.splits import SplitConfig, is_held_out_by_hash
from training.errors import InvalidConfig
from training.evaluation.bounds import EvaluationBounds, bounded, choose_gallery, choose_queries
from training.evaluation.evaluation_set import EvaluationSet, evaluation_set_of


def large_shop(num_products=60):
    catalogue = [(f"{label}-c{n}", f"class {label}") for label in range(num_products) for n in range(3)]
    return [*catalogue, *[(f"{label}-e{n}", f"class {label}", "example") for label in range(40) for n in range(3)]]


def set_with(rows, **bounds):
    snapshot = made_snapshot(rows)
    return evaluation_set_of(snapshot, split_of(snapshot, SplitConfig()), EvaluationBounds(**bounds))


def test_the_gallery_has_all_images_of_queried_classes_and_as_many_others_as_stated():
    whole = set_with(large_shop())
    queried = {image.label for image in whole.queries}

    bounded = set_with(large_shop(), num_distractors=7)

    assert keys(bounded.queries) == keys(whole.queries)
    assert {key for key in keys(whole.gallery) if f"class {key.split('-')[0]}" in queried} < set(keys(bounded.gallery))
    assert bounded.num_distractors == 7
    assert len(bounded.gallery) == 3 * len(queried) + 7 < len(whole.gallery) == 180
    assert bounded.evaluation_set_id != whole.evaluation_set_id


def test_a_catalogue_below_the_bounds_gives_the_same_set_as_without_bounds():
    unbounded = set_with(shop_rows(), num_distractors=10**9, max_queries=10**9)

    assert set_with(shop_rows()).evaluation_set_id == unbounded.evaluation_set_id
    assert len(set_with(shop_rows()).gallery) == sum(len(row) == 2 for row in shop_rows())


def test_new_products_displace_distractors_only_by_their_hash():
    before = set_with(large_shop(60), num_distractors=20)
    added = [(f"new{n}-c", f"new {n}") for n in range(10)]

    after = set_with([*large_shop(60), *added], num_distractors=20)

    queried = {image.label for image in after.queries}
    kept = [key for key, image in zip(keys(before.gallery), before.gallery, strict=True) if image.label not in queried]
    staying = [key for key in kept if key in keys(after.gallery)]
    assert len(staying) + sum(key.startswith("new") for key in keys(after.gallery)) >= after.num_distractors == 20


def test_queries_that_are_catalogue_images_know_their_own_row_in_a_bounded_gallery():
    bounded = set_with(plain_rows(), num_distractors=5)

    own = [bounded.gallery[row].key for row in bounded.own_row]
    assert own == keys(bounded.queries)
    assert bounded.num_distractors == 5


def test_seen_and_unseen_classes_share_the_queries():
    labels = [f"seen {n}" for n in range(300)] + [f"unseen {n}" for n in range(300)]
    digests = [f"{n:064x}" for n in range(600)]
    is_unseen = np.arange(600) >= 300

    chosen = choose_queries(labels, digests, is_unseen, 100)

    assert len(chosen) == 100
    assert is_unseen[chosen].sum() == 50


@pytest.mark.parametrize(("num_seen", "num_unseen", "seen_of_100"), [(300, 20, 80), (20, 300, 20), (300, 0, 100)])
def test_what_one_part_does_not_need_goes_to_the_other(num_seen, num_unseen, seen_of_100):
    number = num_seen + num_unseen
    is_unseen = np.arange(number) >= num_seen

    chosen = choose_queries([f"class {n}" for n in range(number)], [f"{n:064x}" for n in range(number)], is_unseen, 100)

    assert len(chosen) == 100
    assert (~is_unseen[chosen]).sum() == seen_of_100


def test_a_large_class_does_not_take_the_place_of_others():
    labels = ["large"] * 500 + [f"small {n // 5}" for n in range(500)]

    chosen = choose_queries(labels, [f"{n:064x}" for n in range(1000)], np.zeros(1000, np.bool_), 200)

    counts = np.unique([labels[row] for row in chosen], return_counts=True)[1]
    assert counts.max() <= 20
    assert len(counts) >= 36


def test_the_choice_depends_on_content_and_not_on_the_order_of_rows():
    digests = [f"{n:064x}" for n in range(1000)]
    labels = [f"class {n // 4}" for n in range(1000)]
    order = np.random.default_rng(0).permutation(1000)
    is_unseen = np.arange(1000) % 8 < 4

    here = choose_queries(labels, digests, is_unseen, 90)
    there = choose_queries([labels[n] for n in order], [digests[n] for n in order], is_unseen[order], 90)

    assert {digests[row] for row in here} == {digests[order[row]] for row in there}
    is_relevant = np.arange(1000) < 30
    here = choose_gallery(digests, is_relevant, 50)
    there = choose_gallery([digests[n] for n in order], is_relevant[order], 50)
    assert {digests[row] for row in here} == {digests[order[row]] for row in there}
    assert len(here) == 80


def test_figures_state_the_size_of_the_gallery_and_its_distractors():
    bounded = set_with(large_shop(), num_distractors=7)

    metrics = measured(bounded).metrics

    assert metrics["all"]["num_gallery_images"] == len(bounded.gallery)
    assert metrics["all"]["num_distractors"] == 7


def test_a_bounded_set_is_read_as_it_was_written(tmp_path):
    bounded = set_with(large_shop(), num_distractors=7, max_queries=10)

    bounded.write(tmp_path / "set.arrow")

    found = EvaluationSet.read(tmp_path / "set.arrow")
    assert (found.evaluation_set_id, found.num_distractors) == (bounded.evaluation_set_id, 7)
    assert len(found.queries) == 10


@pytest.mark.parametrize(("name", "value"), [("max_queries", 1), ("num_distractors", -1)])
def test_senseless_bounds_are_refused(name, value):
    with pytest.raises(InvalidConfig, match=f"evaluation.{name}"):
        dataclasses.replace(EvaluationConfig(), **{name: value})


def test_a_part_of_a_split_is_bounded_like_an_evaluation_set():
    snapshot = made_snapshot(large_shop())
    part = split_of(snapshot, SplitConfig()).test
    queried = {snapshot.images[position].label for position in part.query}

    within = bounded(snapshot, part, EvaluationBounds(num_distractors=7))

    np.testing.assert_array_equal(within.query, part.query)
    assert within.gallery is not None
    assert len(within.gallery) == 3 * len(queried) + 7 < len(part.gallery)
    assert set(within.gallery) < set(part.gallery)


def test_a_small_part_is_returned_as_it_is():
    snapshot = made_snapshot(shop_rows())
    part = split_of(snapshot, SplitConfig()).test

    within = bounded(snapshot, part, EvaluationBounds())

    np.testing.assert_array_equal(within.query, part.query)
    np.testing.assert_array_equal(within.gallery, part.gallery)
    np.testing.assert_array_equal(within.is_unseen, part.is_unseen)


def test_parts_that_are_searched_among_themselves_have_fewer_queries_at_most():
    snapshot = made_snapshot(plain_rows())
    part = split_of(snapshot, SplitConfig()).test

    within = bounded(snapshot, part, EvaluationBounds(max_queries=12))

    assert within.gallery is None
    assert len(within.query) == len(within.is_unseen) == 12


def test_stated_parts_keep_the_protocol_of_their_data_set():
    assert not is_held_out_by_hash(made_snapshot(stated_rows(("x",))), SplitConfig())
    assert is_held_out_by_hash(made_snapshot(stated_rows(("x",))), SplitConfig(test="hash"))
    assert is_held_out_by_hash(made_snapshot(plain_rows()), SplitConfig())
