"""Data that are too few: each shape has a cause of its own and a remedy that helps, in training and in evaluation."""

from typing import Any

import numpy as np
import pytest

from tests.training.data.test_splits import made_snapshot, plain_rows, shop_rows, stated_rows
from training.data.splits import SplitConfig, leave_out, split_snapshot
from training.errors import UnfitData
from training.evaluation.evaluation_set import evaluation_set_of

EXAMPLES_ONLY = [row for row in shop_rows() if len(row) == 3]
# Each class has a catalogue image and one photo; half of the photos or more are held out.
PAIRS = [row for n in range(3) for row in ((f"{n}-c", f"class {n}"), (f"{n}-e", f"class {n}", "example"))]

# Rows, settings, the cause, and a remedy: rows to add or settings to change.
SHAPES: dict[str, tuple[list[Any], dict[str, Any], str, str, Any]] = {
    "one class": (
        plain_rows(1, 5), {}, "all 5 images are of one class, 'class 0'", "add images of other classes", plain_rows(8)
    ),
    "one image in all": (plain_rows(1, 1), {}, "all 1 images are of one class", "of other classes", plain_rows(8)),
    "one image per class": (
        plain_rows(30, 1), {}, "each of the 30 classes has a single image", "add a second image",
        [(f"again {n}", f"class {n}") for n in range(30)],
    ),
    "one class of several images": (
        [*plain_rows(30, 1), ("more", "class 3")], {}, "only 'class 3' has two or more images", "add a second image",
        [(f"again {n}", f"class {n}") for n in range(30)],
    ),
    "two classes": (
        plain_rows(2), {}, "2 classes have two or more images, and", "add classes with two or more images",
        plain_rows(8),
    ),
    "two classes, without a test": (
        plain_rows(2), {}, "are needed: ", 'split.test = "none", split.validation_share = 0',
        {"test": "none", "validation_share": 0.0, "validation_example_share": 0.0},
    ),
    "a large unseen share": (
        plain_rows(6), {"unseen_share": 0.9}, "held out for the test", "lower split.unseen_share (0.9)",
        {"unseen_share": 0.2},
    ),
    "all classes named": (
        plain_rows(4), {"unseen_classes": tuple(f"class {n}" for n in range(4))},
        "0 of them are left to train on, where at least 2 are needed: 4 held out for the test",
        "name fewer classes in split.unseen_classes", {"unseen_classes": ("class 0",)},
    ),
    "a large validation share": (
        plain_rows(6), {"validation_share": 0.99}, "held out for the validation", "lower split.validation_share (0.99)",
        {"validation_share": 0.2},
    ),
    "photos held out": (
        PAIRS, {"seen_example_share": 0.999, "unseen_share": 0, "validation_share": 0},
        "3 with fewer than two images besides held-out ones", "lower split.seen_example_share (0.999)",
        {"seen_example_share": 0.1, "validation_example_share": 0.0},
    ),
}  # fmt: skip


def split_of(rows, knobs):
    return split_snapshot(made_snapshot(rows), SplitConfig(**knobs))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_data_has_its_cause_and_a_remedy_that_helps(shape):
    rows, knobs, cause, remedy, change = SHAPES[shape]

    with pytest.raises(UnfitData) as raised:
        split_of(rows, knobs)

    assert cause in raised.value.cause
    assert remedy in str(raised.value)
    if isinstance(change, dict):
        split_of(rows, {**knobs, **change})
    else:
        split_of([*rows, *change], knobs)


def test_everything_stated_as_test_is_told_with_the_part_that_states_it():
    rows = stated_rows(("x", "y"), ())

    with pytest.raises(UnfitData, match=r"0 of them are left .* state fewer images as test"):
        split_of(rows, {})


def test_no_remedy_is_a_setting_that_cannot_be_changed():
    with pytest.raises(UnfitData) as raised:
        split_of(plain_rows(6), {"unseen_share": 0.9})

    fixed = raised.value.without_advice_on({"split.unseen_share", "split.test"})

    assert "split.unseen_share" not in str(fixed)
    assert "split.test" not in str(fixed)
    assert fixed.cause == raised.value.cause
    assert "add classes" in str(fixed)


def test_an_evaluation_needs_no_classes_to_train_on():
    split = split_snapshot(made_snapshot(plain_rows(2)), SplitConfig(), is_for_training=False)

    assert split.test is not None
    assert len(split.train) + len(split.test.query) <= len(plain_rows(2))


def test_images_that_cannot_be_used_are_named_as_the_cause():
    snapshot = made_snapshot(plain_rows())
    split = split_snapshot(snapshot, SplitConfig())

    with pytest.raises(UnfitData, match=r"near-duplicates of held-out images.*replace unreadable images"):
        leave_out(snapshot, split, from_training=split.train, everywhere=np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("rows", "cause", "remedy"),
    [
        (EXAMPLES_ONLY, "the catalogue has no image of any product", "add catalogue images of the products"),
        (
            [*EXAMPLES_ONLY, *[(f"other {n}", f"other {n}") for n in range(4)]],
            "test images has a catalogue image of its class to find",
            "add a catalogue image to these classes",
        ),
    ],
)
def test_examples_without_catalogue_images_cannot_be_compared(rows, cause, remedy):
    snapshot = made_snapshot(rows)
    split = split_snapshot(snapshot, SplitConfig(), is_for_training=False)

    with pytest.raises(UnfitData) as raised:
        evaluation_set_of(snapshot, split)

    assert cause in raised.value.cause
    assert remedy in raised.value.remedy
