"""Rows and workflows in step: what is enqueued, taken over from whom, and ended. A fake engine stands for DBOS."""

import threading
from dataclasses import dataclass, field, replace

import pytest

from service.operations.cancelling import request_cancel
from service.operations.claims import OperationLost, begin_step, claim_operation, end_operation
from service.operations.kinds import BUILD, IMPORT, RETRAIN
from service.operations.records import create_operation, get_operation
from service.worker.dispatching import Dispatcher
from service.worker.job_engine import PENDING, Workflow

VERSION = "1"


@dataclass
class FakeEngine:
    """Keeps workflows in a dictionary; `take` is what an executor does."""

    known: dict[str, Workflow] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enqueue(self, kind, operation_id):
        self.known.setdefault(operation_id, Workflow(operation_id, "ENQUEUED", None, VERSION, kind))

    def workflows(self, operation_ids):
        return [self.known[operation_id] for operation_id in operation_ids if operation_id in self.known]

    def pending(self):
        return [workflow for workflow in self.known.values() if workflow.status == PENDING]

    def resume(self, operation_id, queue):
        with self.lock:
            self.resumed.append(operation_id)
            self.known[operation_id] = replace(self.known[operation_id], status="ENQUEUED", queue=queue)

    def take(self, operation_id, executor_id, **changes):
        changes = {"status": PENDING, "executor_id": executor_id, **changes}
        self.known[operation_id] = replace(self.known[operation_id], **changes)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def database(installation):
    return installation.database


@pytest.fixture
def start(engine, database):
    """Make the dispatcher of a worker; `living` are the other workers that live."""

    def make(worker_id="w", *, living=(), at_work=()):
        return Dispatcher(
            engine, database, worker_id, VERSION, living=lambda: {worker_id, *living}, at_work=set(at_work)
        )

    return make


def queue(database, kind=BUILD):
    return create_operation(database, kind, {}, actor="test")[0].id


def begun_by(worker_id, engine, database):
    """Queue an operation, and let a worker take it and begin a step."""
    operation_id = queue(database)
    engine.enqueue(BUILD, operation_id)
    engine.take(operation_id, worker_id)
    claim_operation(database, operation_id, worker_id)
    begin_step(database, operation_id, worker_id, "plan")
    return operation_id


def read(database, operation_id):
    with database.reading() as session:
        return get_operation(session, operation_id)


def test_hands_each_operation_over_on_the_queue_of_its_kind(start, engine, database):
    retrain_id, build_id = queue(database, RETRAIN), queue(database, BUILD)
    dispatcher = start()

    assert dispatcher.hand_over()
    assert dispatcher.hand_over()

    assert {workflow.operation_id: workflow.queue for workflow in engine.known.values()} == {
        retrain_id: "retrain",
        build_id: "build",
    }


def test_hands_operations_of_a_kind_over_in_the_order_of_their_requests(start, engine, database):
    requested = [queue(database, IMPORT) for _ in range(3)]

    start().hand_over()

    assert list(engine.known) == requested


def test_cleans_up_after_an_operation_that_it_ends(start, engine, database):
    operation_id = begun_by("w", engine, database)
    engine.take(operation_id, "w", status="ERROR")
    dispatcher = start()
    cleaned_up: list[str] = []
    dispatcher.clean_up = cleaned_up.append

    dispatcher.repair()

    assert cleaned_up == [operation_id]


def test_has_nothing_to_do_once_all_operations_have_ended(start, database):
    request_cancel(database, queue(database))

    assert not start().hand_over()


def test_leaves_the_work_of_a_living_worker_alone(start, engine, database):
    operation_id = begun_by("other", engine, database)

    start(living=["other"]).repair()

    assert engine.resumed == []
    assert read(database, operation_id).worker_id == "other"


def test_takes_over_from_a_dead_worker_which_can_then_write_nothing(start, engine, database):
    operation_id = begun_by("dead", engine, database)

    start().repair()

    assert engine.resumed == [operation_id]
    assert engine.known[operation_id].queue == BUILD
    with pytest.raises(OperationLost):
        end_operation(database, operation_id, "dead", "succeeded", None)
    assert read(database, operation_id).state == "running"


def test_of_many_workers_that_see_the_same_death_one_takes_over(start, engine, database):
    operation_id = begun_by("dead", engine, database)
    names = [f"w{number}" for number in range(6)]
    barrier = threading.Barrier(len(names))

    def repair(name):
        dispatcher = start(name, living=names)
        barrier.wait()
        dispatcher.repair()

    threads = [threading.Thread(target=repair, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert engine.resumed == [operation_id]


def test_does_not_resume_what_another_worker_has_taken_since_it_looked(start, engine, database, monkeypatch):
    operation_id = begun_by("dead", engine, database)
    seen = engine.pending()
    monkeypatch.setattr(engine, "pending", lambda: seen)
    engine.take(operation_id, "other")
    claim_operation(database, operation_id, "other")

    start(living=["other"]).repair()

    assert engine.resumed == []
    assert read(database, operation_id).worker_id == "other"


def test_does_not_revive_a_cancelled_workflow(start, engine, database, monkeypatch):
    operation_id = begun_by("dead", engine, database)
    seen = engine.pending()
    monkeypatch.setattr(engine, "pending", lambda: seen)
    engine.take(operation_id, "dead", status="CANCELLED")

    start().repair()

    assert engine.resumed == []
    assert read(database, operation_id).state == "failed"


def test_a_failed_resume_is_tried_again(start, engine, database, monkeypatch):
    operation_id = begun_by("dead", engine, database)
    dispatcher = start()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "resume", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dispatcher.repair()

    dispatcher.repair()

    assert engine.resumed == [operation_id]


def test_resumes_its_own_workflow_that_it_does_not_perform_any_more(start, engine, database):
    """A worker that was declared dead woke up late and claimed the row, so this one has given the operation up."""
    operation_id = begun_by("w", engine, database)
    claim_operation(database, operation_id, "late")
    dispatcher = start()

    dispatcher.repair()
    after_one_round = list(engine.resumed)
    dispatcher.repair()

    assert after_one_round == []
    assert engine.resumed == [operation_id]


def test_leaves_its_own_work_alone(start, engine, database):
    operation_id = begun_by("w", engine, database)
    dispatcher = start(at_work=[operation_id])

    dispatcher.repair()
    dispatcher.repair()

    assert engine.resumed == []


def test_ends_the_workflow_of_an_operation_that_was_cancelled_without_a_worker(start, engine, database):
    operation_id = begun_by("dead", engine, database)
    request_cancel(database, operation_id)  # the dead worker has no row among the processes

    start().repair()

    # Its workflow runs once more, finds that the operation has ended, and ends.
    assert engine.resumed == [operation_id]
    assert read(database, operation_id).state == "cancelled"


@pytest.mark.parametrize("status", ["ERROR", "SUCCESS", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"])
def test_an_operation_whose_workflow_has_ended_fails(start, engine, database, status):
    operation_id = begun_by("w", engine, database)
    engine.take(operation_id, "w", status=status)

    start().repair()

    operation = read(database, operation_id)
    assert (operation.state, operation.error["code"]) == ("failed", "internal-error")
    assert status in operation.error["detail"]


@pytest.mark.parametrize(("living", "state"), [((), "failed"), (("old",), "running")])
def test_an_operation_of_another_version_fails_once_its_worker_is_dead(start, engine, database, living, state):
    operation_id = begun_by("old", engine, database)
    engine.take(operation_id, "old", version="0")

    start(living=living).repair()

    operation = read(database, operation_id)
    assert operation.state == state
    assert engine.resumed == []
    assert state == "running" or operation.error["code"] == "worker-upgraded"
