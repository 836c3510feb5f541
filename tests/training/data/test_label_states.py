import numpy as np
import pytest

from tests.training.data.test_splits import made_snapshot, plain_rows, shop_rows, split_of
from training.data.label_states import held_out_states
from training.data.snapshot import Snapshot
from training.data.splits import SplitConfig, held_out_images

EMPTY = Snapshot("made", (), "0" * 64)


def places(states, state):
    return np.flatnonzero([found == state for found in states])


@pytest.mark.parametrize("rows", [shop_rows(), plain_rows(), shop_rows(num_examples=1)])
def test_states_equal_the_split(rows):
    snapshot = made_snapshot(rows)
    split = split_of(snapshot, SplitConfig())

    states = held_out_states(snapshot, SplitConfig())

    assert {states[position] for position in split.train} == {"train"}
    assert {states[position] for position in split.test.query} == {"test"}
    assert {states[position] for position in split.validation.query} == {"validation"}
    np.testing.assert_array_equal([state != "train" for state in states], held_out_images(snapshot, split))


def test_every_image_of_a_held_out_class_is_held_out_with_it():
    snapshot = made_snapshot(shop_rows())
    split = split_of(snapshot, SplitConfig())

    states = held_out_states(snapshot, SplitConfig())

    for classes, state in ((split.unseen_classes, "test"), (split.validation_classes, "validation")):
        found = {states[place] for place, image in enumerate(snapshot.images) if image.label in classes}
        # Examples of validation classes may be test queries, since the test is chosen first.
        assert state in found <= {state, "test"}


@pytest.mark.parametrize(
    "rows",
    [
        [("a", "one")],
        [("a", "one"), ("b", "one", "example")],
        [("a", "one"), ("b", "two")],
        [("a", "one", "example")],
        [(f"{n}", "one", "example") for n in range(5)],
        shop_rows(2, 1),
        shop_rows(3, 0),
    ],
)
def test_a_catalogue_too_small_to_train_on_has_states_too(rows):
    snapshot = made_snapshot(rows)

    states = held_out_states(snapshot, SplitConfig())

    assert len(states) == len(rows)
    assert set(states) <= {"train", "validation", "test"}


def test_an_empty_snapshot_has_no_states():
    assert held_out_states(EMPTY, SplitConfig()) == []


def test_an_image_keeps_its_state_when_others_are_added():
    rows = shop_rows(80, 4)
    before = made_snapshot(rows[: len(rows) // 2] + rows[-40:])
    after = made_snapshot(rows)

    was, now = (
        dict(zip((image.content for image in snapshot.images), held_out_states(snapshot, SplitConfig()), strict=True))
        for snapshot in (before, after)
    )

    assert all(now[content] == state for content, state in was.items())


def test_a_copy_of_a_test_image_does_not_train():
    rows = shop_rows(60, 4)
    snapshot = made_snapshot(rows)
    states = held_out_states(snapshot, SplitConfig())
    tested = snapshot.images[places(states, "test")[0]]
    trained = next(snapshot.images[place].label for place in places(states, "train"))

    again = made_snapshot([*rows, (tested.location, trained, "example")])
    states = held_out_states(again, SplitConfig())

    copies = [state for image, state in zip(again.images, states, strict=True) if image.sha256 == tested.sha256]
    assert copies == ["test", "test"]


def test_stated_parts_are_the_states():
    rows = [
        (f"{label}-{part}-{number}", f"class {label}", "catalogue", part)
        for label in range(6)
        for part in ("train", "validation", "test")
        for number in range(2)
    ]
    snapshot = made_snapshot(rows)

    states = held_out_states(snapshot, SplitConfig(unseen_share=0, validation_share=0))

    assert states == [image.part for image in snapshot.images]


def test_images_stated_as_test_never_train_even_without_a_test():
    rows = [
        (f"{label}-{part}", f"class {label}", "catalogue", part) for label in range(6) for part in ("train", "test")
    ]
    snapshot = made_snapshot(rows)

    states = held_out_states(snapshot, SplitConfig(test="none", validation_share=0))

    assert states == [image.part for image in snapshot.images]
