"""Imports in worker processes: killed in the middle, several at once, and stopped in order."""

import io
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.catalogue.queries import count_catalogue
from service.operations.cancelling import cancel_operation
from service.operations.queueing import request_import
from service.operations.requests import parse_import
from tests.databases import new_database
from tests.images import png
from tests.service.conftest import wait_for
from tests.service.fixtures.learning import DATABASES, Works, stop_all

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

# Enough that a worker is in the middle of them a moment after it has begun.
NUM_IMAGES = 3000
ONE_FAILED = {"num_failed": 1, "num_left_out": 0, "num_images_left_out": 0, "num_listed": 1}


def archive(first: int = 0, number: int = NUM_IMAGES) -> bytes:
    """Return an archive with one image for each of that many products; one more is no image."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for index in range(first, first + number):
            colour = (index % 256, index // 256 % 256, 7)
            opened.writestr(f"product-{index:05d}/front.png", png(colour, (16, 16)))
        opened.writestr("broken/front.png", b"x")
    return buffer.getvalue()


@pytest.fixture(params=DATABASES)
def works(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Works]:
    """An empty installation on each database, and workers on it."""
    address = new_database(request.getfixturevalue("postgresql")) if request.param == "postgresql" else ""
    made = Works(tmp_path / "home", address)
    yield made
    stop_all(made)


def queue(works: Works, content: bytes, **values: object) -> str:
    path = works.home.parent / "upload.zip"
    path.write_bytes(content)
    with works.open() as installation:
        return request_import(installation, parse_import(values), path, actor="test").id


def num_images(works: Works) -> int:
    with works.open() as installation, installation.database.reading() as session:
        return count_catalogue(session).num_images["catalogue"]


def is_partly_imported(works: Works, operation_id: str) -> bool:
    progress = works.operation(operation_id).progress or {}
    return progress.get("stage") == "Importing" and 0 < int(str(progress["done"])) < NUM_IMAGES


def test_an_import_whose_worker_is_killed_is_completed_by_the_next(works: Works):
    operation_id = queue(works, archive())
    worker = works.start_worker()
    wait_for(lambda: is_partly_imported(works, operation_id), 120)

    worker.send_signal(signal.SIGKILL)
    worker.wait()
    num_before = num_images(works)
    assert works.work() == 0, works.last_log()[-3000:]

    operation = works.operation(operation_id)
    report = dict(operation.result["report"])  # type: ignore[call-overload]
    assert operation.state == "succeeded"
    assert 0 < num_before < NUM_IMAGES
    assert num_images(works) == NUM_IMAGES
    # Those of the interrupted try are unchanged in the second.
    assert (report["num_unchanged"], report["num_images_added"]) == (num_before, NUM_IMAGES - num_before)
    assert operation.result["row_errors"] == ONE_FAILED
    assert list(works.settings.operations_dir.iterdir()) == []


def test_an_import_that_dies_before_its_end_is_recorded_reports_one_list_of_errors(works: Works):
    operation_id = queue(works, archive(number=20))

    assert works.work("--kill-at", "within import") == -signal.SIGKILL
    assert works.work() == 0

    operation = works.operation(operation_id)
    assert operation.state == "succeeded"
    assert dict(operation.result["report"])["num_unchanged"] == 20  # type: ignore[call-overload]
    assert operation.result["row_errors"] == ONE_FAILED


def test_a_stopped_worker_leaves_the_import_to_the_next(works: Works):
    operation_id = queue(works, archive())
    worker = works.start_worker("--stay")
    wait_for(lambda: is_partly_imported(works, operation_id), 120)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(120) == 0
    assert works.operation(operation_id).state == "running"
    assert works.work() == 0
    assert (works.operation(operation_id).state, num_images(works)) == ("succeeded", NUM_IMAGES)


def test_a_running_import_is_cancelled_within_seconds(works: Works):
    operation_id = queue(works, archive())
    works.start_worker("--stay")
    wait_for(lambda: is_partly_imported(works, operation_id), 120)

    with works.open() as installation:
        cancel_operation(installation, operation_id)
    wait_for(lambda: works.operation(operation_id).state == "cancelled", 30)

    assert 0 < num_images(works) < NUM_IMAGES
    wait_for(lambda: not list(works.settings.operations_dir.iterdir()), 30)


def test_several_imports_stop_no_heartbeat_and_are_performed_in_order(works: Works):
    """Two workers that would take over each other's work after three seconds of silence."""
    number = NUM_IMAGES // 2
    operations = [queue(works, archive(first * number, number)) for first in range(4)]
    labels = b"".join([b"image_id,label\n", *(b"none-%d,x\n" % line for line in range(2000))])
    path = works.home.parent / "rows.csv"
    path.write_bytes(labels)
    with works.open() as installation:
        operations.append(request_import(installation, parse_import({"kind": "labels"}), path, actor="test").id)

    started = time.monotonic()
    workers = [works.start_worker("--takeover-seconds", "3") for _ in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0]

    ended = [works.operation(operation_id) for operation_id in operations]
    assert [operation.state for operation in ended] == ["succeeded"] * 4 + ["failed"]
    assert {operation.attempts for operation in ended} == {1}
    # One after the other, although there are two workers: the next one begins after the one before has ended.
    times = [
        time for operation in ended[:4] for time in (operation.started_at, operation.finished_at) if time is not None
    ]
    assert len(times) == 8
    assert times == sorted(times)
    assert num_images(works) == 4 * number
    for log in works.home.parent.glob("worker-*.log"):
        assert "operation_taken_over" not in log.read_text(), time.monotonic() - started
