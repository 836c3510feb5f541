import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.training.datasets.trees import text_snapshot
from training.data.held_out_shares import share_of
from training.data.snapshot import Snapshot, SnapshotImage, open_training_data
from training.data.splits import SplitConfig, held_out_images, leave_out, split_snapshot
from training.errors import InvalidConfig, UnfitData


def made_image(content, label, role="catalogue", part=""):
    return SnapshotImage(content, Path(content), label, role, part, hashlib.sha256(content.encode()).hexdigest())


def made_snapshot(rows):
    """Create a snapshot from rows of (content, label[, role[, part]]), without files."""
    images = [made_image(*row) for row in rows]
    return Snapshot("made", tuple(sorted(images, key=lambda image: image.content)), "0" * 64)


def split_of(snapshot, config):
    """Split; not annotated, since no part is None in these tests."""
    return split_snapshot(snapshot, config)


def without_validation(**knobs):
    return SplitConfig(validation_share=0, validation_example_share=0, **knobs)


def left_of(snapshot, split, from_training, everywhere):
    return leave_out(snapshot, split, from_training=from_training, everywhere=everywhere)


def plain_rows(num_classes=60, num_images=5):
    return [(f"{label}-{number}", f"class {label}") for label in range(num_classes) for number in range(num_images)]


def shop_rows(num_classes=60, num_examples=6):
    catalogue = [(f"{label}-catalogue", f"class {label}") for label in range(num_classes)]
    examples = [
        (f"{label}-{n}", f"class {label}", "example") for label in range(num_classes) for n in range(num_examples)
    ]
    return catalogue + examples


def names(snapshot, indices):
    return {snapshot.images[index].location for index in indices}


def labels(snapshot, indices):
    return {snapshot.images[index].label for index in indices}


def test_parts_of_a_shop_are_disjoint_and_have_the_configured_sizes():
    snapshot = made_snapshot(shop_rows(400))

    split = split_of(snapshot, SplitConfig())

    parts = [set(split.train), set(split.validation.query), set(split.test.query)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert len(split.unseen_classes) == pytest.approx(80, abs=20)
    assert len(split.validation_classes) == pytest.approx(0.15 * 320, abs=15)
    seen = [index for index in split.test.query if snapshot.images[index].label not in split.unseen_classes]
    assert len(seen) == pytest.approx(0.2 * 320 * 6, rel=0.15)


def test_queries_of_a_shop_are_examples_and_the_gallery_is_the_whole_catalogue():
    snapshot = made_snapshot(shop_rows())

    split = split_of(snapshot, SplitConfig())

    catalogue = [index for index, image in enumerate(snapshot.images) if image.role == "catalogue"]
    for part in (split.test, split.validation):
        assert {snapshot.images[index].role for index in part.query} == {"example"}
        np.testing.assert_array_equal(part.gallery, catalogue)
        assert part.query.dtype == part.gallery.dtype == np.int64


def test_unseen_and_validation_classes_are_nowhere_in_training():
    snapshot = made_snapshot(shop_rows())

    split = split_of(snapshot, SplitConfig())

    trained = labels(snapshot, split.train)
    assert not trained & {*split.unseen_classes, *split.validation_classes}
    for part in (split.test, split.validation):
        is_unseen = [snapshot.images[index].label not in trained for index in part.query]
        np.testing.assert_array_equal(part.is_unseen, is_unseen)
        assert part.is_unseen.any()
        assert not part.is_unseen.all()


def test_without_roles_held_out_classes_are_searched_among_themselves():
    snapshot = made_snapshot(plain_rows())

    split = split_of(snapshot, SplitConfig())

    assert split.test.gallery is None
    assert split.test.is_unseen.all()
    assert labels(snapshot, split.test.query) == set(split.unseen_classes)
    assert len(split.test.query) == 5 * len(split.unseen_classes)
    assert labels(snapshot, split.validation.query) == set(split.validation_classes)


@pytest.mark.parametrize("rows", [plain_rows(), shop_rows()])
def test_adding_images_and_classes_moves_none_into_training(rows):
    """Images held out with any part of the data are also held out with all of it."""
    everything = made_snapshot(rows)
    final = split_of(everything, SplitConfig())
    generator = np.random.default_rng(0)

    for _ in range(5):
        fewer = made_snapshot([row for row in rows if generator.random() < 0.6])
        split = split_of(fewer, SplitConfig())

        assert not split.notes or "one image" in split.notes[0]
        was_tested = names(fewer, split.test.query)
        assert not was_tested & names(everything, final.train)
        assert was_tested <= names(everything, final.test.query)
        was_validated = names(fewer, split.validation.query)
        assert not was_validated & names(everything, final.train)
        assert set(split.unseen_classes) <= set(final.unseen_classes)


def test_shares_of_different_kinds_are_independent():
    hashes = np.array([[share_of(kind, f"class {n}") for n in range(2000)] for kind in ("a", "b")])

    assert hashes.min() >= 0
    assert hashes.max() < 1
    assert (hashes[0] < 0.2).mean() == pytest.approx(0.2, abs=0.03)
    assert abs(np.corrcoef(hashes)[0, 1]) < 0.07


def test_the_hash_is_the_one_that_earlier_versions_used():
    """A different hash would change the held-out images of every installation."""
    assert share_of("unseen class", "class 1") == pytest.approx(0.9527764749, abs=1e-9)


def test_a_larger_share_includes_a_smaller_one():
    snapshot = made_snapshot(plain_rows())

    small, large = (split_of(snapshot, SplitConfig(unseen_share=share)) for share in (0.1, 0.4))

    assert set(small.unseen_classes) < set(large.unseen_classes)


def test_with_few_classes_the_one_with_the_smallest_hash_is_held_out_with_a_note():
    snapshot = made_snapshot(plain_rows(6))
    config = SplitConfig(unseen_share=0.01, validation_share=0.01)

    split = split_of(snapshot, config)

    assert len(split.unseen_classes) == len(split.validation_classes) == 1
    smallest = min((f"class {n}" for n in range(6)), key=lambda label: share_of("unseen class", label))
    assert split.unseen_classes == (smallest,)
    assert "none falls into the share 0.01" in split.notes[0]
    assert len(split.notes) == 2


def test_with_few_examples_the_one_with_the_smallest_hash_is_held_out():
    snapshot = made_snapshot(shop_rows(5, 3))

    split = split_of(snapshot, without_validation(unseen_share=0, seen_example_share=0.001))

    assert len(split.test.query) == 1
    assert "of 15 examples none" in split.notes[0]


def stated_rows(test_labels, train_labels=("a", "b", "c", "d", "e")):
    rows = [(f"{label}{number}", label, "catalogue", "train") for label in train_labels for number in range(3)]
    return rows + [
        (f"{label}-test{number}", label, "catalogue", "test") for label in test_labels for number in range(3)
    ]


def test_stated_test_classes_that_do_not_train_are_the_unseen_classes():
    snapshot = made_snapshot(stated_rows(("x", "y")))

    split = split_of(snapshot, SplitConfig())

    assert split.unseen_classes == ("x", "y")
    assert labels(snapshot, split.test.query) == {"x", "y"}
    assert split.test.is_unseen.all()
    assert split.test.gallery is None
    assert labels(snapshot, split.validation.query) == set(split.validation_classes) < {"a", "b", "c", "d", "e"}


def grocery_rows(num_classes=20):
    rows = []
    for number in range(num_classes):
        label = f"class {number}"
        rows.append((f"{label} icon", label, "catalogue", ""))
        for part, count in (("train", 5), ("validation", 2), ("test", 3)):
            rows += [(f"{label} {part} {photo}", label, "example", part) for photo in range(count)]
    return rows


def test_stated_parts_that_share_classes_give_seen_and_unseen_queries():
    snapshot = made_snapshot(grocery_rows())
    config = SplitConfig(unseen_classes=("class 3", "class 7"))

    split = split_of(snapshot, config)

    assert names(snapshot, split.test.query) == {row[0] for row in grocery_rows() if row[3] == "test"}
    assert len(split.test.gallery) == 20
    assert split.unseen_classes == ("class 3", "class 7")
    assert not labels(snapshot, split.train) & {"class 3", "class 7"}
    assert {snapshot.images[index].part for index in split.train} == {"train", ""}
    queries = [snapshot.images[index] for index in split.validation.query]
    # Stated photos of training classes, and all photos of the validation classes.
    assert {image.part for image in queries if image.label not in split.validation_classes} == {"validation"}
    assert {image.part for image in queries if image.label in split.validation_classes} == {"train", "validation"}
    assert not labels(snapshot, split.validation.query) & {"class 3", "class 7"}
    in_validation = [snapshot.images[index].label in split.validation_classes for index in split.validation.query]
    np.testing.assert_array_equal(split.validation.is_unseen, in_validation)


def test_stated_parts_that_share_classes_hold_out_classes_by_hash():
    snapshot = made_snapshot(grocery_rows())

    split = split_of(snapshot, SplitConfig())

    assert split.unseen_classes
    assert not labels(snapshot, split.train) & set(split.unseen_classes)


def test_stated_validation_classes_of_their_own_are_the_validation_classes():
    rows = stated_rows(("x",)) + [(f"v{number}", "v", "catalogue", "validation") for number in range(3)]

    split = split_of(made_snapshot(rows), SplitConfig())

    assert split.validation_classes == ("v",)
    assert len(split.train) == 15


def test_hash_ignores_stated_parts():
    snapshot = made_snapshot(stated_rows(("x", "y")))

    split = split_of(snapshot, without_validation(test="hash", unseen_classes=("a",)))

    assert labels(snapshot, split.test.query) == {"a"}
    assert {"x", "y"} < labels(snapshot, split.train)


def test_stated_test_images_never_train_even_without_a_test():
    snapshot = made_snapshot(stated_rows(("x", "y")))

    split = split_of(snapshot, SplitConfig(test="none", unseen_classes=("a",)))

    assert split.test is None
    assert not labels(snapshot, [*split.train, *split.validation.query]) & {"a", "x", "y"}


def test_auto_holds_out_by_hash_where_no_test_part_is_stated():
    snapshot = made_snapshot(stated_rows((), tuple("abcdefghij")))

    auto, by_hash = (split_of(snapshot, SplitConfig(test=test)) for test in ("auto", "hash"))

    np.testing.assert_array_equal(auto.train, by_hash.train)
    assert "states no test images" in auto.notes[0]


def test_both_validation_shares_of_zero_mean_no_validation():
    split = split_of(made_snapshot(grocery_rows()), without_validation())

    assert split.validation is None
    assert split.validation_classes == ()


def test_copies_of_held_out_images_do_not_train():
    rows = plain_rows()
    unseen = split_of(made_snapshot(rows), SplitConfig()).unseen_classes[0]
    trained = "class 0" if unseen != "class 0" else "class 1"
    content = next(row[0] for row in rows if row[1] == unseen)
    snapshot = made_snapshot([*rows, (content, trained)])

    split = split_of(snapshot, without_validation(unseen_classes=(unseen,)))

    assert content not in names(snapshot, split.train)
    assert split.notes == ("images with the same file as a held-out image, excluded from training: 1",)


def test_classes_with_one_image_left_do_not_train_and_are_named():
    snapshot = made_snapshot([*plain_rows(), ("lonely", "single")])

    split = split_of(snapshot, without_validation(unseen_classes=("class 1",)))

    assert "single" not in labels(snapshot, split.train)
    assert "left out of training: 1 ('single')" in split.notes[0]


def test_held_out_classes_without_an_example_are_searched_among_themselves():
    rows = [*plain_rows(10), ("photo", "class 0", "example")]

    split = split_of(
        made_snapshot(rows),
        without_validation(unseen_classes=("class 5",), seen_example_share=0),
    )

    assert split.test.gallery is None
    assert len(split.test.query) == 5


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (plain_rows(), {"unseen_share": 0}, "test part is empty; raise split.unseen_share"),
        (plain_rows(), {"validation_share": 0}, "validation part is empty; raise split.validation_share"),
        (plain_rows(), {"test": "stated"}, 'states no test images; use split.test = "hash"'),
        (plain_rows(2), {}, "add classes with two or more images"),
        (plain_rows(6), {"unseen_share": 0.9}, "lower split.unseen_share"),
        (plain_rows(6), {"validation_share": 0.99}, "lower split.validation_share"),
        (plain_rows(60, 1), {}, "each of the 60 classes has a single image"),
        (plain_rows(), {"unseen_classes": ("nobody",)}, "do not have: 'nobody'"),
        (stated_rows(("x",)), {"unseen_classes": ("a",)}, "leave split.unseen_classes empty"),
        (stated_rows(("x", "y"), ()), {}, "state fewer images as test"),
        ([*plain_rows(), ("lonely", "s")], {"unseen_classes": ("s",)}, "none of the 1 test images has another image"),
    ],
)
def test_data_that_cannot_be_split_are_refused_with_a_remedy(rows, config, message):
    with pytest.raises(UnfitData, match=message.replace("(", r"\(")):
        split_of(made_snapshot(rows), SplitConfig(**config))


@pytest.mark.parametrize(
    "knob",
    [
        {"test": "some"},
        {"unseen_share": 1.0},
        {"unseen_share": -0.1},
        {"unseen_share": float("nan")},
        {"seen_example_share": True},
        {"validation_share": "0.1"},
        {"validation_example_share": None},
        {"unseen_classes": ["a"]},
        {"unseen_classes": ("",)},
        {"unseen_classes": ("a", "a")},
    ],
)
def test_an_invalid_setting_is_named(knob):
    with pytest.raises(InvalidConfig, match=f"split.{next(iter(knob))}"):
        SplitConfig(**knob)


def test_leave_out_removes_images_from_every_part():
    snapshot = made_snapshot(shop_rows())
    split = split_of(snapshot, SplitConfig())
    bad_query, bad_item = split.test.query[0], split.test.gallery[0]

    left = left_of(snapshot, split, split.train[:1], np.array([bad_query, bad_item], np.int64))

    assert split.train[0] not in left.train
    assert bad_query not in left.test.query
    assert bad_item not in left.test.gallery
    assert bad_item not in left.train
    assert len(left.test.is_unseen) == len(left.test.query) == len(split.test.query) - 1
    np.testing.assert_array_equal(left.validation.query, split.validation.query)


def test_leaving_out_too_many_images_is_refused():
    snapshot = made_snapshot(plain_rows())
    split = split_of(snapshot, SplitConfig())
    nothing = np.zeros(0, np.int64)

    with pytest.raises(UnfitData, match="too few classes with two or more images"):
        left_of(snapshot, split, split.train, nothing)
    with pytest.raises(UnfitData, match="no test image can be read"):
        left_of(snapshot, split, nothing, split.test.query)


def test_held_out_images_are_the_queries_and_all_of_unseen_classes():
    snapshot = made_snapshot(shop_rows())
    split = split_of(snapshot, SplitConfig())

    held_out = np.flatnonzero(held_out_images(snapshot, split))

    assert not set(held_out) & set(split.train)
    assert {*split.test.query, *split.validation.query} < set(held_out)


def test_a_split_does_not_depend_on_the_location_of_the_files(tmp_path):
    rows = plain_rows(20, 3)
    first = split_of(text_snapshot(tmp_path / "a", rows), SplitConfig())
    second = split_of(text_snapshot(tmp_path / "b", rows[::-1]), SplitConfig())

    for field in dataclasses.fields(first.test):
        np.testing.assert_array_equal(getattr(first.test, field.name), getattr(second.test, field.name))
    np.testing.assert_array_equal(first.train, second.train)


def test_the_real_grocery_dataset_tests_all_photos_of_its_test_part(grocery):
    snapshot = open_training_data(grocery)

    split = split_of(snapshot, SplitConfig())

    assert (len(split.test.query), len(split.test.gallery)) == (2485, 81)
    assert len(labels(snapshot, split.test.query)) == 81
    assert len(labels(snapshot, split.train)) == 81 - len(split.unseen_classes) - len(split.validation_classes)
