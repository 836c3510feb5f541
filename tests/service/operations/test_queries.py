"""What HTTP and the command line call to look at operations."""

import pytest

from service.installation.processes import WORKER, register_process
from service.operations.cancelling import request_cancel
from service.operations.errors import InvalidOperation, OperationNotFound
from service.operations.folder import RUN
from service.operations.kinds import BUILD, RETRAIN
from service.operations.queries import (
    find_operation,
    find_report,
    follow_operation,
    has_living_worker,
    list_operations,
)
from service.operations.records import create_operation
from training.report.run_folder import REPORT


def make(installation, kind=BUILD):
    return create_operation(installation.database, kind, {}, actor="test")[0].id


def test_a_page_says_whether_older_operations_follow(installation):
    first = make(installation)
    request_cancel(installation.database, first)
    second = make(installation)

    page, has_more = list_operations(installation.database, limit=1)
    rest, has_rest = list_operations(installation.database, limit=1, before=second)

    assert ([operation.id for operation in page], has_more) == ([second], True)
    assert ([operation.id for operation in rest], has_rest) == ([first], False)


def test_an_unknown_state_is_refused(installation):
    with pytest.raises(InvalidOperation, match="no state 'lost'; states are queued, running"):
        list_operations(installation.database, states=["lost"])


def test_without_an_id_the_newest_operation_is_found(installation):
    with pytest.raises(OperationNotFound, match="akin retrain"):
        find_operation(installation.database)

    make(installation)
    newest = make(installation, RETRAIN)

    assert find_operation(installation.database).id == newest


def test_following_ends_with_the_ended_operation(installation, monkeypatch):
    operation_id = make(installation)
    monkeypatch.setattr(
        "service.operations.queries.time.sleep", lambda _: request_cancel(installation.database, operation_id)
    )

    assert [operation.state for operation in follow_operation(installation.database, operation_id)] == [
        "queued",
        "cancelled",
    ]


def test_a_report_is_found_once_it_is_written(installation):
    operation_id = make(installation, RETRAIN)
    with pytest.raises(OperationNotFound, match="has no report"):
        find_report(installation, operation_id)
    with pytest.raises(OperationNotFound, match="no operation"):
        find_report(installation, "unknown")

    path = installation.settings.operations_dir / operation_id / RUN / REPORT
    path.parent.mkdir(parents=True)
    path.touch()

    assert find_report(installation, operation_id) == path


def test_a_worker_counts_as_living_once_it_is_registered(installation):
    assert not has_living_worker(installation.database)

    register_process(installation.database, WORKER)

    assert has_living_worker(installation.database)
