"""akin retrain --no-wait and akin operations, without a worker."""

import json

import pytest

from service.cli import operations as cli
from service.cli.tables.operations import operation_lines, progress_line
from service.operations.claims import claim_operation, end_operation
from service.operations.kinds import BUILD
from service.operations.records import create_operation, get_operation
from service.web.schemas.operations import OperationView


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
