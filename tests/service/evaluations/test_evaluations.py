"""Evaluations: the table, the comparison of two, and the routes."""

import hashlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.evaluations.comparison import compare_evaluations
from service.evaluations.errors import EvaluationNotFound, NotComparable
from service.evaluations.queries import find_evaluation, list_evaluations
from service.evaluations.records import (
    assign_release,
    evaluation_id_of,
    measurement_path,
    newest_evaluations,
    record_evaluation,
    set_path,
)
from service.storage.database import now
from service.storage.tables.catalogue import MediaObject
from service.web.app import create_app
from training.evaluation.evaluation_set import EvaluationSet, SetImage, measure

KEY = "test-key-0123456789abcdef"
LABELS = ("apple", "pear", "plum", "quince")
NUM_QUERIES = 10  # of each label


def image(label, name):
    return hashlib.sha256(f"{label}/{name}".encode()).hexdigest()


def evaluation_set_with(num_gallery=1):
    """Return a set of ten queries and `num_gallery` images per label; apples and pears are unseen."""
    queries = [
        SetImage(image(label, number), label, "example", f"{label}-{number}")
        for label in LABELS
        for number in range(NUM_QUERIES)
    ]
    gallery = [
        SetImage(image(label, f"front {n}"), label, "catalogue", f"{label}-front-{n}")
        for label in LABELS
        for n in range(num_gallery)
    ]
    is_unseen = np.repeat([True, True, False, False], NUM_QUERIES)
    return EvaluationSet.of(queries, gallery, is_unseen, np.full(len(queries), -1))


def measured(evaluation_set, wrong):
    """Measure a model that takes the first `wrong[label]` queries of each label for the next label."""
    identity = np.eye(len(LABELS), dtype=np.float32)
    rows = []
    for position, query in enumerate(evaluation_set.queries):
        row = LABELS.index(query.label)
        is_wrong = position % NUM_QUERIES < wrong.get(query.label, 0)
        rows.append(0.6 * identity[row] + 0.8 * identity[(row + 1) % len(LABELS)] if is_wrong else identity[row])
    num_gallery = len(evaluation_set.gallery) // len(LABELS)
    return measure(evaluation_set, np.stack(rows).astype(np.float32), np.repeat(identity, num_gallery, axis=0))


@pytest.fixture
def record(installation):
    """Record an evaluation with its files."""

    def record(evaluation_id, evaluation_set, wrong, release_id=None):
        settings = installation.settings
        found = measured(evaluation_set, wrong)
        evaluation_set.write(set_path(settings, evaluation_set.evaluation_set_id))
        found.write(measurement_path(settings, evaluation_id))
        with installation.database.transaction() as session:
            record_evaluation(
                session,
                evaluation_id=evaluation_id,
                evaluation_set_id=evaluation_set.evaluation_set_id,
                space_id=f"space of {evaluation_id}",
                num_queries=len(evaluation_set.queries),
                metrics=found.metrics,
                release_id=release_id,
            )

    return record


@pytest.fixture
def two(record):
    """Two evaluations of one set: `before` has apples and plums wrong, `after` plums and quinces."""
    evaluation_set = evaluation_set_with()
    record("before", evaluation_set, {"apple": 5, "plum": 2}, release_id="r1")
    record("after", evaluation_set, {"plum": 10, "quince": 1}, release_id="r2")
    return evaluation_set


def store_image(installation, digest):
    with installation.database.transaction() as session:
        session.add(MediaObject(sha256=digest, extension="png", num_bytes=1, width=1, height=1, created_at=now()))


def test_the_id_depends_on_operation_and_model():
    assert evaluation_id_of("op", "space") == evaluation_id_of("op", "space")
    assert len({evaluation_id_of(*names) for names in (("op", "s"), ("op", "t"), ("ops", ""), ("o", "ps"))}) == 4


def test_recording_again_keeps_time_and_release(installation, two):
    created_at = find_evaluation(installation.database, "before").created_at

    with installation.database.transaction() as session:
        record_evaluation(
            session, evaluation_id="before", evaluation_set_id="s", space_id="x", num_queries=3, metrics={}
        )

    again = find_evaluation(installation.database, "before")
    assert (again.created_at, again.release_id, again.num_queries) == (created_at, "r1", 3)
    assert len(list_evaluations(installation.database)) == 2


def test_a_release_can_be_assigned_later(installation, record):
    record("e1", evaluation_set_with(), {})

    with installation.database.transaction() as session:
        assign_release(session, "e1", "r9")

    assert find_evaluation(installation.database, "r9").id == "e1"
    with pytest.raises(EvaluationNotFound, match="'e2'"), installation.database.transaction() as session:
        assign_release(session, "e2", "r9")


def test_is_found_by_id_or_as_the_newest_of_a_release(installation, record):
    evaluation_set = evaluation_set_with()
    for evaluation_id in ("a", "b"):
        record(evaluation_id, evaluation_set, {}, release_id="r1")

    database = installation.database
    assert find_evaluation(database, "a").id == "a"
    assert find_evaluation(database, "r1").id == "b"
    assert [row.id for row in list_evaluations(database, release_id="r1")] == ["b", "a"]
    assert list_evaluations(database, evaluation_set_id="none") == []
    with database.reading() as session:
        assert newest_evaluations(session, ["r1", "r2"])["r1"].id == "b"
    with pytest.raises(EvaluationNotFound, match=r"'r2' is neither.*akin evaluations list"):
        find_evaluation(database, "r2")


def test_a_comparison_has_the_difference_of_each_part_with_its_interval(installation, two):
    comparison = compare_evaluations(installation, "before", "after")

    changes = {(change.part, change.metric): change for change in comparison.changes}
    assert set(changes) == {
        (part, metric)
        for part in ("all", "seen", "unseen", "mean_of_parts")
        for metric in ("recall_at_1", "recall_at_10", "map_at_r")
    }
    unseen, seen = changes["unseen", "recall_at_1"], changes["seen", "recall_at_1"]
    assert (unseen.before, unseen.after, unseen.num_queries) == (0.75, 1.0, 20)
    assert (seen.before, seen.after) == (0.9, 0.45)
    assert unseen.difference == pytest.approx(0.25)
    assert 0 < unseen.low < 0.25 < unseen.high
    assert seen.low < -0.45 < seen.high < 0
    mean = changes["mean_of_parts", "recall_at_1"]
    assert mean.difference == pytest.approx(mean.after - mean.before) == pytest.approx((0.25 - 0.45) / 2)
    assert changes["all", "recall_at_10"].difference == 0


def test_a_comparison_lists_classes_and_queries_won_and_lost(installation, two):
    comparison = compare_evaluations(installation, "r1", "r2")

    assert (comparison.num_won, comparison.num_lost, comparison.num_unchanged) == (5, 9, 26)
    assert [(one.label, one.before, one.after) for one in comparison.classes_won] == [("apple", 0.5, 1.0)]
    assert [(one.label, one.before, one.after) for one in comparison.classes_lost] == [
        ("plum", 0.8, 0.0), ("quince", 1.0, 0.9),
    ]  # fmt: skip
    assert [query.label for query in comparison.queries_won] == ["apple"] * 5
    assert all((query.rank_before, query.rank_after) == (2, 1) for query in comparison.queries_won)
    assert sorted(query.label for query in comparison.queries_lost) == ["plum"] * 8 + ["quince"]
    first = comparison.queries_won[0]
    assert (first.answers_before[0].label, first.answers_before[0].is_right) == ("pear", False)
    assert (first.answers_after[0].label, first.answers_after[0].is_right) == ("apple", True)
    assert first.answers_before[0].score == pytest.approx(0.8)
    assert first.is_unseen


def test_the_limit_truncates_lists_but_not_counts(installation, two):
    comparison = compare_evaluations(installation, "before", "after", limit=1)

    assert len(comparison.queries_won) == len(comparison.queries_lost) == len(comparison.classes_lost) == 1
    assert (comparison.num_won, comparison.num_lost) == (5, 9)


def test_the_largest_losses_come_first(installation, record):
    evaluation_set = evaluation_set_with(num_gallery=3)
    record("before", evaluation_set, {})
    record("after", evaluation_set, {"plum": 1, "apple": 10})

    comparison = compare_evaluations(installation, "before", "after", limit=3)

    assert all((query.rank_before, query.rank_after) == (1, 4) for query in comparison.queries_lost)
    assert [one.label for one in comparison.classes_lost] == ["apple", "plum"]


def test_an_evaluation_compared_with_itself_shows_no_change(installation, two):
    comparison = compare_evaluations(installation, "before", "before")

    assert all(change.difference == change.low == change.high == 0 for change in comparison.changes)
    assert comparison.num_won == comparison.num_lost == 0


def test_the_reverse_comparison_has_opposite_signs(installation, two):
    forward = compare_evaluations(installation, "before", "after")
    backward = compare_evaluations(installation, "after", "before")

    assert [change.difference for change in backward.changes] == [-change.difference for change in forward.changes]
    assert [query.label for query in backward.queries_won] == [query.label for query in forward.queries_lost]


def test_evaluations_of_different_sets_cannot_be_compared(installation, two, record):
    record("other", evaluation_set_with(num_gallery=2), {})

    with pytest.raises(NotComparable, match=r"before is on set .* \(40 queries\), evaluation other on set "):
        compare_evaluations(installation, "before", "other")


def test_missing_and_damaged_files_are_named_without_their_location(installation, two):
    path = measurement_path(installation.settings, "after")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EvaluationNotFound, match=r"evaluation after cannot be read.*after\.arrow") as error:
        compare_evaluations(installation, "before", "after")
    assert str(installation.settings.home) not in str(error.value)

    measurement_path(installation.settings, "before").replace(path)
    set_path(installation.settings, two.evaluation_set_id).unlink()
    with pytest.raises(EvaluationNotFound, match=r"\.arrow is missing"):
        compare_evaluations(installation, "before", "after")


def test_a_measurement_of_another_set_under_its_name_is_refused(installation, two, record):
    record("other", evaluation_set_with(num_gallery=2), {})
    measurement_path(installation.settings, "other").replace(measurement_path(installation.settings, "after"))

    with pytest.raises(EvaluationNotFound, match=r"after\.arrow is of set"):
        compare_evaluations(installation, "before", "after")


@pytest.fixture
def client(settings, two):
    settings = settings.model_copy(update={"admin_key": SecretStr(KEY)})
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {KEY}"}) as opened:
        yield opened


def test_lists_and_shows_evaluations_over_http(client):
    listed = client.get("/v1/admin/evaluations").json()["evaluations"]
    of_release = client.get("/v1/admin/evaluations", params={"release_id": "r1"}).json()["evaluations"]

    assert [evaluation["evaluation_id"] for evaluation in listed] == ["after", "before"]
    assert [evaluation["evaluation_id"] for evaluation in of_release] == ["before"]
    assert listed[0]["metrics"]["unseen"]["recall_at_1"] == 1.0
    assert listed[0]["created_at"].endswith("Z")
    assert client.get("/v1/admin/evaluations/before").json() == client.get("/v1/admin/evaluations/r1").json()
    missing = client.get("/v1/admin/evaluations/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "evaluation-not-found")


def test_a_comparison_over_http_has_image_urls(client, installation):
    store_image(installation, image("apple", 0))
    store_image(installation, image("pear", "front 0"))

    answer = client.get("/v1/admin/evaluations/compare", params={"a": "r1", "b": "after"}).json()

    assert (answer["a"]["evaluation_id"], answer["b"]["evaluation_id"]) == ("before", "after")
    won = answer["queries_won"][0]
    assert won["image_url"] == f"/v1/admin/media/{image('apple', 0)}.png"
    assert won["answers_before"][0]["image_url"] == f"/v1/admin/media/{image('pear', 'front 0')}.png"
    assert won["answers_after"][0]["image_url"] is None
    assert answer["classes_won"] == [{"label": "apple", "num_queries": 10, "before": 0.5, "after": 1.0}]
    assert {change["part"] for change in answer["changes"]} == {"all", "seen", "unseen", "mean_of_parts"}


def test_impossible_comparisons_have_different_codes(client, record):
    record("other", evaluation_set_with(num_gallery=2), {})

    def code(**params):
        response = client.get("/v1/admin/evaluations/compare", params=params)
        return response.status_code, response.json()["code"]

    assert code(a="before", b="other") == (409, "not-comparable")
    assert code(a="before", b="none") == (404, "evaluation-not-found")
    assert code(a="before") == (422, "invalid-request")
    assert code(a="before", b="after", limit=-1) == (422, "invalid-request")
