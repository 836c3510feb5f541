"""The files that came with requests: removed with the end of their operation, whoever ends it."""

import os
import time

import pytest

from service.operations.cancelling import cancel_operation
from service.operations.claims import claim_operation, end_operation
from service.operations.folder import RUN
from service.operations.queueing import request_import
from service.operations.requests import parse_import
from service.operations.uploads import remove_leftovers, remove_upload


@pytest.fixture
def queue(installation, tmp_path):
    """Queue the import of a table, and return its id."""
    table = tmp_path / "rows.csv"
    table.write_text("image_id,label\na,b\n")

    def request() -> str:
        return request_import(installation, parse_import({"kind": "labels"}), table, actor="ann").id

    return request


@pytest.fixture
def folders(installation):
    """Return the names of the folders of operations."""

    def names() -> list[str]:
        return sorted(path.name for path in installation.settings.operations_dir.iterdir())

    return names


def test_a_cancelled_operation_without_a_worker_keeps_no_upload(installation, queue, folders):
    cancelled, queued = queue(), queue()

    cancel_operation(installation, cancelled)

    assert folders() == [queued]


def test_an_operation_that_is_cancelled_while_it_runs_keeps_its_upload_for_its_worker(installation, queue, folders):
    operation_id = queue()
    with installation.database.transaction() as session:
        session.add(_living_worker())
    claim_operation(installation.database, operation_id, "w")

    cancel_operation(installation, operation_id)

    assert folders() == [operation_id]


def test_leftovers_of_ended_and_never_queued_operations_are_removed(installation, queue, folders):
    ended, queued = queue(), queue()
    claim_operation(installation.database, ended, "w")
    end_operation(installation.database, ended, "w", "failed", {"code": "c", "detail": "d"})
    old, young = (installation.settings.operations_dir / name for name in ("never-queued", "being-received"))
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 90_000,) * 2)

    remove_leftovers(installation)

    assert folders() == sorted([queued, young.name])


def test_what_a_training_run_has_left_is_kept(installation, queue):
    operation_id = queue()
    run = installation.settings.operations_dir / operation_id / RUN
    run.mkdir()

    remove_upload(installation, operation_id)
    remove_upload(installation, operation_id)

    assert [path.name for path in run.parent.iterdir()] == [RUN]


def _living_worker():
    from service.installation.processes import WORKER
    from service.storage.database import now
    from service.storage.tables.processes import Process

    return Process(id="w", kind=WORKER, host="h", pid=1, started_at=now(), seen_at=now())
