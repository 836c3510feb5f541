from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.class_images import Groups, Queues


def queues_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return Groups.of_labels(labels), Queues(Groups.of_labels(labels), np.random.default_rng(seed))


def test_groups_hold_the_positions_of_each_label():
    groups = Groups.of_labels(np.array([1, 0, 1, 2, 0]))

    assert [groups.members[groups.offsets[c] : groups.offsets[c + 1]].tolist() for c in range(3)] == [
        [1, 4],
        [0, 2],
        [3],
    ]
    assert groups.sizes().tolist() == [2, 2, 1]


def test_a_label_without_images_is_an_empty_group():
    assert Groups.of_labels(np.array([0, 2]), 4).sizes().tolist() == [1, 0, 1, 0]


@given(size=st.integers(1, 9), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_member_is_drawn_once_before_any_repeats(size, count, seed):
    _, queues = queues_of([size], seed)

    drawn = [queues.draw(0, 1)[0] for _ in range(size * count)]

    for start in range(0, len(drawn), size):
        assert sorted(drawn[start : start + size]) == list(range(size))


@given(size=st.integers(2, 9), count=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_draw_has_distinct_members_if_the_group_has_enough(size, count, seed):
    _, queues = queues_of([size], seed)

    for _ in range(20):
        drawn = queues.draw(0, count)

        assert max(Counter(drawn).values()) == 1 or count > size


@given(size=st.integers(2, 9), count=st.integers(1, 8), seed=st.integers(0, 99))
def test_the_representative_is_never_drawn_again_for_its_batch(size, count, seed):
    groups, queues = queues_of([3, size], seed)
    first = int(groups.offsets[1])

    for representative in range(first, first + size):
        assert representative not in queues.draw(1, count, (representative,))


def test_a_class_of_two_images_repeats_the_other_image():
    """One of the two images is the representative."""
    _, queues = queues_of([2])

    assert queues.draw(0, 3, (1,)) == [0, 0, 0]


def test_drawing_one_by_one_equals_drawing_together():
    """Plain batches and batches with a representative from the same queue therefore draw alike."""
    _, one = queues_of([7], seed=3)
    _, other = queues_of([7], seed=3)

    for _ in range(10):
        first = one.draw(0, 1)
        assert first + one.draw(0, 3, first) == other.draw(0, 4)


def test_a_restored_queue_continues_alike():
    generator = np.random.default_rng(0)
    groups = Groups.of_labels(np.arange(3).repeat(5))
    queues = Queues(groups, generator)
    for _ in range(4):
        queues.draw(1, 3)
    state, random = queues.state(), generator.bit_generator.state

    expected = [queues.draw(c, 2) for c in (1, 0, 2, 1)]
    other_generator = np.random.default_rng(9)
    other = Queues(groups, other_generator)
    other.restore(state)
    other_generator.bit_generator.state = random

    assert [other.draw(c, 2) for c in (1, 0, 2, 1)] == expected


@pytest.mark.parametrize("num_classes", [10, 100_000])
def test_a_draw_leaves_other_classes_untouched(num_classes):
    """A draw shuffles only its own class."""
    groups = Groups.of_labels(np.arange(num_classes).repeat(3))
    queues = Queues(groups, np.random.default_rng(0))

    queues.draw(4, 2)

    order = queues.state()["order"]
    assert np.array_equal(np.delete(order, [12, 13, 14]), np.delete(groups.members, [12, 13, 14]))
