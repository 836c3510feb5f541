"""akin retrain --no-wait and akin operations, without a worker."""

import json

import pytest

from service.cli import operations as cli
from service.cli.tables.operations import operation_lines, progress_line
from service.operations.claims import claim_operation, end_operation
from service.operations.kinds import BUILD
from service.operations.queueing import request_import
from service.operations.records import create_operation, get_operation
from service.operations.requests import parse_import
from service.web.schemas.operations import OperationView
from tests.images import png
from tests.service.fixtures.imports import perform
from tests.service.fixtures.labels import packed


def test_a_retrain_is_queued_listed_shown_and_cancelled(akin):
    queued = akin("retrain", "--no-wait", "--note", "spring")
    assert "no worker is running" in " ".join(queued.err.split())
    (listed,) = json.loads(akin("operations", "list", "--state", "queued", "--json").out)
    operation_id = listed["operation_id"]

    assert f"{operation_id}: queued" in akin("operations", "show").out
    assert f"{operation_id} is cancelled" in " ".join(akin("operations", "cancel", operation_id).out.split())
    shown = json.loads(akin("operations", "show", operation_id, "--json").out)
    assert (shown["state"], shown["request"]["note"]) == ("cancelled", "spring")
    assert "no state 'lost'" in akin("operations", "list", "--state", "lost", status=1).err


@pytest.mark.parametrize(("state", "status"), [("succeeded", 0), ("rejected", 3), ("failed", 1)])
def test_following_ends_with_the_operation_and_its_status(akin, installation, monkeypatch, state, status):
    operation_id = create_operation(installation.database, BUILD, {}, actor="test")[0].id
    claim_operation(installation.database, operation_id, "w")
    monkeypatch.setattr(cli, "_SECONDS_BETWEEN_LINES", 0.0)
    polls = iter(range(2))

    def sleep(_):
        if next(polls, None) is None:
            end_operation(installation.database, operation_id, "w", state, None)
        else:
            with installation.database.transaction() as session:
                get_operation(session, operation_id).progress = {
                    "stage": "Training", "done": 30, "total": 60, "per_second": 2.0, "seconds_left": 15.0,
                }  # fmt: skip

    monkeypatch.setattr("service.operations.queries.time.sleep", sleep)

    followed = akin("operations", "follow", status=status)

    assert f"{operation_id}: {state}" in followed.out
    assert "Training, 30 of 60, 2 per second, 15 s left" in " ".join(followed.err.split())


def test_a_progress_line_has_what_is_known(installation):
    operation = create_operation(installation.database, BUILD, {}, actor="test")[0]

    assert progress_line(OperationView.of(operation)) == f"{operation.id}: queued"


def test_the_rates_of_embedding_are_shown_as_far_as_they_are_known(installation):
    operation = create_operation(installation.database, BUILD, {}, actor="test")[0]
    operation.progress = {
        "stage": "Embedding shard 1 of 2", "done": 30, "total": 60,
        "stage_rates": {"read": 410.0, "decode": 160.2, "network": 175.4},
    }  # fmt: skip

    view = OperationView.of(operation)

    assert progress_line(view).endswith("Embedding shard 1 of 2, 30 of 60 · read 410/s  decode 160/s  network 175/s")
    assert "  read 410/s  decode 160/s  network 175/s" in operation_lines(view)


@pytest.fixture
def imported(installation, tmp_path):
    """Queue and perform the import of an archive; returns the id of its operation."""

    def run(files):
        path = tmp_path / "upload.zip"
        path.write_bytes(packed(files))
        operation_id = request_import(installation, parse_import({}), path, actor="test").id
        perform(installation, operation_id)
        return operation_id

    return run


def test_an_import_shows_its_counts_and_first_failed_rows(akin, imported):
    rows = "".join(f"p-{number},none.png\n" for number in range(12))
    operation_id = imported({"catalogue.csv": f"product_id,image\np,a.png\n{rows}", "a.png": png("red")})

    shown = akin("operations", "show", operation_id).out
    errors = akin("operations", "errors", operation_id, "--limit", "11").out
    rest = akin("operations", "errors", operation_id, "--after", "11").out

    assert "CSV: 1 products added, 1 images added, 12 rows failed" in shown
    assert shown.count("the image 'none.png' does not exist") == 10
    assert f"all 12: akin operations errors {operation_id}" in shown
    assert errors.splitlines()[0].startswith("catalogue.csv:3: the image 'none.png' does not exist")
    assert errors.splitlines()[-2:] == ["12 rows failed, 0 files were left out", "more: --after 11"]
    assert rest.splitlines()[0].startswith("catalogue.csv:14: the image 'none.png' does not exist")
    assert "more" not in rest


def test_the_exit_status_of_an_import_tells_of_failed_rows(akin, imported):
    bad = imported({"a/1.png": png("red"), "b/1.png": b"x"})
    good = imported({"a/1.png": png("red")})

    assert "1 rows failed" in akin("operations", "follow", bad, status=1).out
    assert "rows unchanged" in akin("operations", "follow", good).out
    assert json.loads(akin("operations", "errors", bad, "--json").out)["num_failed"] == 1


def test_an_import_without_a_usable_row_names_the_first_reasons(akin, imported):
    operation_id = imported({"b/1.png": b"x"})

    followed = akin("operations", "follow", operation_id, status=1).out

    assert "invalid-import-source: no row of the folder per product could be imported" in followed
    assert f"all 1: akin operations errors {operation_id}" in followed


def test_a_queued_operation_without_a_worker_says_so(akin, installation):
    create_operation(installation.database, BUILD, {}, actor="test")

    assert "note: no worker is running on this installation" in akin("operations", "show").out
    assert "no worker is running" in " ".join(akin("operations", "list").err.split())
    assert json.loads(akin("operations", "show", "--json").out)["notes"]


def test_an_operation_shows_the_size_of_its_gallery_and_the_changes_that_it_lacks(installation):
    operation = create_operation(installation.database, BUILD, {}, actor="test")[0]
    sizes = {"num_queries": 900, "num_gallery_images": 12_000, "num_distractors": 10_000, "num_catalogue_images": 10**6}
    operation.result = {
        "evaluation_set": sizes,
        "candidate": {"evaluation_id": "e1", "metrics": {}},
        "release": {"release_id": "r1"},
        "num_changes_left": 1234,
    }

    lines = "\n".join(operation_lines(OperationView.of(operation)))

    assert "900 queries among 12,000 of 1,000,000 catalogue images, 10,000 of them of other products" in lines
    assert "1,234 changes of the catalogue came after it" in lines
