"""The durable engine itself, in this process, on SQLite: queues beside each other, steps recorded, work resumed."""

import threading
from contextlib import contextmanager

import pytest

from service.installation.settings import Settings
from service.operations.kinds import BUILD, RETRAIN
from service.worker.job_engine import PENDING, Workflow, job_engine, run_once
from tests.service.conftest import wait_for


@pytest.fixture
def open_engine(tmp_path):
    settings = Settings(home=tmp_path)

    @contextmanager
    def open_as(worker_id, perform):
        with job_engine(settings, perform, worker_id=worker_id, version="1") as engine:
            yield engine

    return open_as


def status(engine, operation_id):
    return engine.workflows([operation_id])[0].status


def test_a_long_retrain_does_not_keep_a_build_waiting(open_engine):
    release, done = threading.Event(), []

    def perform(operation_id):
        if operation_id == "long":
            release.wait(30)
        done.append(operation_id)
        return "succeeded"

    with open_engine("w", perform) as engine:
        engine.enqueue(RETRAIN, "long")
        wait_for(lambda: status(engine, "long") == PENDING)
        engine.enqueue(BUILD, "short")
        wait_for(lambda: status(engine, "short") == "SUCCESS")
        release.set()
        wait_for(lambda: status(engine, "long") == "SUCCESS")

    assert done == ["short", "long"]


class Stopped(BaseException):
    """What the worker raises when it is asked to stop."""


def test_resumed_work_goes_on_after_the_last_recorded_step_in_another_worker(open_engine):
    steps, reached = [], threading.Event()

    def record(step, facts):
        steps.append(step)
        return facts

    def perform(_):
        found = run_once("one", lambda: record("one", {"a": 1}))
        if not reached.is_set():
            reached.set()
            raise Stopped
        run_once("two", lambda: record(f"two, {found['a']}", {}))
        return "succeeded"

    with open_engine("first", perform) as engine:
        engine.enqueue(BUILD, "job")
        wait_for(reached.is_set)
    with open_engine("second", perform) as engine:
        (left,) = engine.pending()
        engine.enqueue(BUILD, "job")  # idempotent, also for a workflow that has begun
        engine.resume("job", BUILD)
        wait_for(lambda: status(engine, "job") == "SUCCESS")
        (ended,) = engine.workflows(["job"])

    assert left == Workflow("job", PENDING, "first", "1", BUILD)
    assert ended.executor_id == "second"
    assert steps == ["one", "two, 1"]
