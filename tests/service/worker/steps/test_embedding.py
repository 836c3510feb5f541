"""The progress of embedding in an operation."""

import pytest

from embedding.stages import StageReport, StageWork
from service.operations.claims import claim_operation
from service.operations.records import create_operation, get_operation
from service.worker.run import Ended, Run
from service.worker.steps.embedding import embedding_progress

FIRST = StageReport(StageWork(64, 0.25), StageWork(60, 0.5), StageWork(32, 0.5))
SECOND = StageReport(StageWork(128, 0.5), StageWork(120, 1.0), StageWork(64, 1.0), StageWork(32, 0.01))


@pytest.fixture
def run(installation):
    """A claimed operation whose recorded stages are in the list `stages`."""
    operation, _ = create_operation(installation.database, "build", {}, actor="test")
    claim_operation(installation.database, operation.id, "w")
    stages: list[StageReport] = []
    run = Run(installation, operation.id, "w", {}, "test", lambda _, work: work(), record_stages=stages.append)
    return run, stages


def progress(run):
    with run.installation.database.reading() as session:
        return get_operation(session, run.operation_id).progress


def test_the_operation_shows_the_rate_of_each_stage(run):
    operation, _ = run

    embedding_progress(operation, "Embedding shard 1 of 3")(32, 100, FIRST)

    found = progress(operation)
    assert (found["stage"], found["done"], found["total"]) == ("Embedding shard 1 of 3", 32, 100)
    assert found["stage_rates"] == {"read": 256, "decode": 120, "network": 64}


def test_metrics_receive_what_is_new(run):
    operation, stages = run
    report = embedding_progress(operation, "Embedding")

    report(32, 100, FIRST)
    report(64, 100, SECOND)

    assert stages == [FIRST, SECOND - FIRST]


def test_a_cancelled_operation_ends_at_the_next_batch(run, monkeypatch):
    operation, stages = run
    monkeypatch.setattr("service.worker.run._SECONDS_BETWEEN_POLLS", 0.0)
    report = embedding_progress(operation, "Embedding")
    report(32, 100, FIRST)
    with operation.installation.database.transaction() as session:
        row = get_operation(session, operation.operation_id)
        row.cancel_requested_at = row.created_at

    with pytest.raises(Ended, match="cancelled"):
        report(64, 100, SECOND)

    assert len(stages) == 2
