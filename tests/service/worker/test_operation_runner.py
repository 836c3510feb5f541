"""One operation from its claim to its end, without an engine: a dictionary remembers the steps."""

import pytest

from service.operations.cancelling import request_cancel
from service.operations.claims import OperationLost, claim_operation, end_operation
from service.operations.kinds import BUILD
from service.operations.records import create_operation, get_operation
from service.storage.errors import DatabaseUnavailable
from service.worker import operation_runner as execution
from service.worker.operation_runner import OperationRunner
from service.worker.run import WorkerStopping, reject
from service.worker.workflows import WORKFLOWS


@pytest.fixture
def operation_id(installation):
    return create_operation(installation.database, BUILD, {}, actor="test")[0].id


@pytest.fixture
def start(installation, monkeypatch):
    """Make a worker's runner whose builds are the given function; the results of steps outlast it."""
    results = {}

    def run_once(name, work):
        if name not in results:
            results[name] = work()
        return results[name]

    def make(build, worker_id="w"):
        monkeypatch.setitem(WORKFLOWS, BUILD, build)
        return OperationRunner(installation, worker_id, run_once, on_point=lambda _: None, record_step=lambda *_: None)

    return make


def read(installation, operation_id):
    with installation.database.reading() as session:
        return get_operation(session, operation_id)


def test_an_operation_succeeds_with_the_facts_of_its_steps(start, installation, operation_id):
    runner = start(lambda run: run.step("one", lambda _: {"a": 1}))

    assert runner.perform(operation_id) == "succeeded"

    operation = read(installation, operation_id)
    assert (operation.state, operation.result, operation.error) == ("succeeded", {"a": 1}, None)
    assert operation.finished_at is not None
    assert runner.at_work == set()


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (reject("gate", "not better"), "rejected", "gate"),
        (KeyError("surprise"), "failed", "internal-error"),
    ],
)
def test_an_operation_ends_as_its_workflow_does(start, installation, operation_id, error, state, code):
    def build(_):
        raise error

    assert start(build).perform(operation_id) == state

    operation = read(installation, operation_id)
    assert (operation.state, operation.error["code"]) == (state, code)


def test_an_operation_that_has_ended_is_not_performed(start, installation, operation_id):
    request_cancel(installation.database, operation_id)

    assert start(lambda _: 1 / 0).perform(operation_id) == "ended before"


def test_a_stopping_worker_leaves_the_operation_to_the_next_one(start, installation, operation_id):
    def build(run):
        run.step("one", lambda _: {"a": 1})
        runner.stopping.set()
        run.step("two", lambda run: run.report("half", 1, 2) or {})

    runner = start(build)
    with pytest.raises(WorkerStopping):
        runner.perform(operation_id)
    stopped = read(installation, operation_id)

    calls = []

    def repeat(_):
        calls.append(1)
        return {}

    again = start(lambda run: run.step("one", repeat), worker_id="next")
    assert again.perform(operation_id) == "succeeded"

    assert (stopped.state, stopped.attempts) == ("running", 0)
    assert calls == []
    assert read(installation, operation_id).result == {"a": 1}


def test_a_worker_that_lost_the_operation_ends_nothing(start, installation, operation_id):
    def build(run):
        claim_operation(installation.database, operation_id, "other")
        run.step("one", lambda _: {})

    with pytest.raises(OperationLost):
        start(build).perform(operation_id)

    operation = read(installation, operation_id)
    assert (operation.state, operation.worker_id) == ("running", "other")


def test_an_operation_that_kills_its_workers_fails(start, installation, operation_id):
    with installation.database.transaction() as session:
        get_operation(session, operation_id).attempts = 10

    assert start(lambda _: 1 / 0).perform(operation_id) == "failed"

    assert read(installation, operation_id).error["code"] == "worker-died"


def test_a_database_that_does_not_answer_is_awaited_at_the_end(start, installation, operation_id, monkeypatch):
    monkeypatch.setattr(execution, "_DATABASE_PAUSE_SECONDS", 0.0)
    failures = iter([DatabaseUnavailable("away"), DatabaseUnavailable("away")])

    def fail_first(*arguments):
        if (error := next(failures, None)) is not None:
            raise error
        end_operation(*arguments)

    monkeypatch.setattr(execution, "end_operation", fail_first)

    assert start(lambda _: None).perform(operation_id) == "succeeded"
    assert read(installation, operation_id).state == "succeeded"


def test_an_error_while_the_worker_stops_fails_no_operation(start, installation, operation_id):
    """A step that ends after the worker has given up waiting finds the engine gone."""

    def build(run):
        runner.stopping.set()
        raise RuntimeError("the engine is gone")

    runner = start(build)

    with pytest.raises(WorkerStopping):
        runner.perform(operation_id)

    assert read(installation, operation_id).state == "running"
