import dataclasses
import errno
import os

import numpy as np
import pytest

from tests.training.data.test_splits import made_image, made_snapshot, plain_rows, shop_rows, split_of
from tests.training.evaluation.test_retrieval import made
from training.data.snapshot import class_ids, snapshot_of
from training.data.splits import Split, SplitConfig
from training.errors import InvalidEmbeddings, InvalidEvaluation, TrainingError, UnfitData
from training.evaluation.evaluation_set import EvaluationSet, SetMeasurement, evaluation_set_of, measure
from training.evaluation.retrieval import evaluate_retrieval

NONE_LEFT = Split(np.zeros(0, np.int64), None, None)


def set_of(rows, config=None):
    snapshot = made_snapshot(rows)
    return evaluation_set_of(snapshot, split_of(snapshot, config or SplitConfig()))


def keys(images):
    return [image.key for image in images]


def embedded(images, *, seed=0, noise=1.0):
    """Unit rows around one centre per label."""
    labels = class_ids([image.label for image in images])
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(99).standard_normal((labels.max() + 1, 16))[labels]
    rows = rows + noise * rng.standard_normal(rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def measured(evaluation_set, **knobs):
    rows = embedded([*evaluation_set.queries, *evaluation_set.gallery], **knobs)
    num_queries = len(evaluation_set.queries)
    return measure(evaluation_set, rows[:num_queries], rows[num_queries:])


def test_examples_of_the_test_are_searched_among_the_whole_catalogue():
    snapshot = made_snapshot(shop_rows())
    split = split_of(snapshot, SplitConfig())

    evaluation_set = evaluation_set_of(snapshot, split)

    assert keys(evaluation_set.queries) == [snapshot.images[position].location for position in split.test.query]
    assert {image.role for image in evaluation_set.queries} == {"example"}
    catalogue = [image.location for image in snapshot.images if image.role == "catalogue"]
    assert keys(evaluation_set.gallery) == catalogue
    assert (evaluation_set.own_row == -1).all()
    unseen = [image.label in split.unseen_classes for image in evaluation_set.queries]
    np.testing.assert_array_equal(evaluation_set.is_unseen, unseen)
    assert any(unseen)
    assert not all(unseen)


def test_a_class_is_unseen_by_its_hash_regardless_of_training():
    """A class with one image is not trained on, but is not unseen for that reason."""
    # Its label is outside the unseen share, and its example within the test share.
    rows = [*shop_rows(), ("lonely2-catalogue", "lonely2"), ("lonely2-1", "lonely2", "example")]
    snapshot = made_snapshot(rows)
    split = split_of(snapshot, SplitConfig(validation_share=0, validation_example_share=0))
    position = next(place for place in split.test.query if snapshot.images[place].label == "lonely2")
    assert split.test.is_unseen[split.test.query.tolist().index(position)]

    evaluation_set = evaluation_set_of(snapshot, split)

    assert not evaluation_set.is_unseen[keys(evaluation_set.queries).index("lonely2-1")]


def test_unseen_classes_without_an_example_are_searched_for_by_their_catalogue_images():
    catalogue = [(f"{label}-c{n}", f"class {label}") for label in range(30) for n in range(2)]
    examples = [(f"{label}-e{n}", f"class {label}", "example") for label in range(0, 30, 2) for n in range(3)]
    snapshot = made_snapshot([*catalogue, *examples])
    split = split_of(snapshot, SplitConfig(unseen_classes=("class 2", "class 3")))

    evaluation_set = evaluation_set_of(snapshot, split)

    unseen = {
        image.key: row
        for image, row, is_unseen in zip(
            evaluation_set.queries, evaluation_set.own_row, evaluation_set.is_unseen, strict=True
        )
        if is_unseen
    }
    gallery = keys(evaluation_set.gallery)
    assert unseen == {
        "2-e0": -1, "2-e1": -1, "2-e2": -1, "3-c0": gallery.index("3-c0"), "3-c1": gallery.index("3-c1")
    }  # fmt: skip


def test_without_examples_every_test_image_is_left_out_of_its_own_answer():
    snapshot = made_snapshot(plain_rows())
    split = split_of(snapshot, SplitConfig())

    evaluation_set = evaluation_set_of(snapshot, split)

    gallery = keys(evaluation_set.gallery)
    assert len(gallery) == len(snapshot.images)
    assert [gallery[row] for row in evaluation_set.own_row] == keys(evaluation_set.queries)
    assert evaluation_set.is_unseen.all()


def test_queries_without_relevant_images_are_omitted_and_counted():
    rows = [*shop_rows(), ("stray-1", "stray", "example"), ("single-c", "single")]
    classes = tuple(f"class {label}" for label in range(5))

    evaluation_set = set_of(rows, SplitConfig(unseen_classes=(*classes, "stray", "single")))

    assert not {"stray", "single"} & {image.label for image in evaluation_set.queries}
    assert evaluation_set.num_left_out == 2


@pytest.mark.parametrize(
    ("rows", "unseen", "remedy"),
    [
        ([("a", "one"), ("b", "two")], ("one",), "add a second image"),
        (
            [("a", "one", "example"), ("b", "one", "example"), ("c", "two")],
            ("one",),
            "'one'.*add a catalogue image to these classes",
        ),
        ([("a", "one")], (), "add labelled examples"),
        ([], (), "add labelled examples"),
    ],
)
def test_a_set_without_relevant_images_is_refused_with_a_remedy(rows, unseen, remedy):
    split = dataclasses.replace(NONE_LEFT, unseen_classes=unseen)

    with pytest.raises(UnfitData, match=remedy):
        evaluation_set_of(made_snapshot(rows), split)


def test_the_id_depends_on_the_content_and_not_on_locations():
    rows = shop_rows()
    here = set_of(rows)
    images = [dataclasses.replace(made_image(*row), location=f"image {number}") for number, row in enumerate(rows)]
    elsewhere = snapshot_of("catalogue", reversed(images))

    there = evaluation_set_of(elsewhere, split_of(elsewhere, SplitConfig()))

    assert keys(there.queries) != keys(here.queries)
    assert there.evaluation_set_id == here.evaluation_set_id


@pytest.mark.parametrize(
    "change",
    [
        lambda queries, gallery, is_unseen, own: (queries[:-1], gallery, is_unseen[:-1], own[:-1]),
        lambda queries, gallery, is_unseen, own: (queries, gallery[:-1], is_unseen, own),
        lambda queries, gallery, is_unseen, own: (queries, gallery, ~is_unseen, own),
        lambda queries, gallery, is_unseen, own: (queries, gallery, is_unseen, own + 1),
        lambda queries, gallery, is_unseen, own: (queries[::-1], gallery, is_unseen, own),
        lambda queries, gallery, is_unseen, own: (
            (dataclasses.replace(queries[0], label="other"), *queries[1:]), gallery, is_unseen, own,
        ),
    ],
)  # fmt: skip
def test_other_content_has_another_id(change):
    made_set = set_of(shop_rows())
    content = (made_set.queries, made_set.gallery, made_set.is_unseen, made_set.own_row)

    assert EvaluationSet.of(*change(*content)).evaluation_set_id != made_set.evaluation_set_id


def test_more_catalogue_images_change_the_id():
    assert set_of(shop_rows(60)).evaluation_set_id != set_of(shop_rows(61)).evaluation_set_id


def test_the_measurement_equals_evaluate_retrieval():
    evaluation_set = set_of(shop_rows())
    rows = embedded([*evaluation_set.queries, *evaluation_set.gallery])
    queries, gallery = np.split(rows, [len(evaluation_set.queries)])
    labels = class_ids([image.label for image in (*evaluation_set.queries, *evaluation_set.gallery)])
    expected = evaluate_retrieval(
        queries, labels[: len(queries)], gallery, labels[len(queries) :], ks=(1, 2, 4, 8, 10), num_neighbours=10
    )

    measurement = measure(evaluation_set, queries, gallery)

    np.testing.assert_array_equal(measurement.first_hit_rank, expected.first_hit_rank)
    np.testing.assert_array_equal(measurement.neighbour_rows, expected.neighbour_ids)
    assert measurement.neighbour_rows.shape == (len(queries), 10)
    parts = {"all": np.ones(len(queries), bool), "seen": ~evaluation_set.is_unseen, "unseen": evaluation_set.is_unseen}
    for name, mask in parts.items():
        wanted = expected.subset(mask).metrics()
        wanted.pop("num_left_out")
        if name == "all":
            wanted |= {"num_gallery_images": len(gallery), "num_distractors": evaluation_set.num_distractors}
        assert measurement.metrics[name] == pytest.approx(wanted)
    for metric in ("recall_at_1", "map_at_r"):
        both = [measurement.metrics[name][metric] for name in ("seen", "unseen")]
        assert measurement.metrics["mean_of_parts"][metric] == pytest.approx(sum(both) / 2)


def test_a_part_without_queries_is_absent():
    measurement = measured(set_of(plain_rows()))

    assert set(measurement.metrics) == {"all", "unseen", "mean_of_parts"}
    assert measurement.metrics["mean_of_parts"]["recall_at_1"] == measurement.metrics["unseen"]["recall_at_1"]


def test_a_query_never_finds_itself():
    evaluation_set = set_of(plain_rows())
    rows, _ = made(len(evaluation_set.gallery), 5)

    measurement = measure(evaluation_set, rows[evaluation_set.own_row], rows)

    assert not (measurement.neighbour_rows == evaluation_set.own_row[:, None]).any()


def test_rows_that_are_not_one_for_each_image_are_refused():
    evaluation_set = set_of(shop_rows())
    rows = embedded([*evaluation_set.queries, *evaluation_set.gallery])

    with pytest.raises(InvalidEmbeddings, match="images of the gallery"):
        measure(evaluation_set, rows[: len(evaluation_set.queries)], rows)


@pytest.fixture(params=["shop", "plain"])
def either(request):
    return set_of(shop_rows() if request.param == "shop" else plain_rows())


def test_a_set_survives_a_round_trip(either, tmp_path):
    path = tmp_path / "sets" / "set.arrow"

    either.write(path)
    found = EvaluationSet.read(path)

    assert (found.queries, found.gallery) == (either.queries, either.gallery)
    assert (found.evaluation_set_id, found.num_left_out) == (either.evaluation_set_id, either.num_left_out)
    np.testing.assert_array_equal(found.is_unseen, either.is_unseen)
    np.testing.assert_array_equal(found.own_row, either.own_row)
    assert [found.is_unseen.dtype.name, found.own_row.dtype.name] == ["bool", "int64"]
    assert [item.name for item in path.parent.iterdir()] == ["set.arrow"]


def test_a_measurement_survives_a_round_trip(either, tmp_path):
    measurement = measured(either)

    measurement.write(tmp_path / "one.arrow")
    found = SetMeasurement.read(tmp_path / "one.arrow")

    for field in dataclasses.fields(SetMeasurement):
        ours, theirs = getattr(measurement, field.name), getattr(found, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs


def test_equal_content_makes_equal_bytes(either, tmp_path):
    for name in ("one", "two"):
        either.write(tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", [EvaluationSet, SetMeasurement])
def test_any_damage_is_detected(kind, tmp_path):
    evaluation_set = set_of(shop_rows(8, 2))
    (evaluation_set if kind is EvaluationSet else measured(evaluation_set)).write(tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    rng = np.random.default_rng(0)

    for place in [0, len(whole) - 1, *rng.integers(0, len(whole), 300).tolist()]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "file").write_bytes(damaged)
        with pytest.raises(InvalidEvaluation, match="file is not as it was written"):
            kind.read(tmp_path / "file")


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(either, share, tmp_path):
    either.write(tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(InvalidEvaluation, match="not as it was written"):
        EvaluationSet.read(tmp_path / "file")


def test_a_missing_file_and_one_of_another_kind_are_named(either, tmp_path):
    either.write(tmp_path / "file")

    with pytest.raises(InvalidEvaluation, match="none is missing"):
        EvaluationSet.read(tmp_path / "none")
    with pytest.raises(InvalidEvaluation, match="akin-evaluation/1"):
        SetMeasurement.read(tmp_path / "file")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_file(failing, tmp_path, monkeypatch):
    path = tmp_path / "file"
    set_of(plain_rows()).write(path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (type(path), "replace")}[failing], fail)
    with pytest.raises(TrainingError, match="free some disk"):
        set_of(shop_rows()).write(path)

    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
