"""Steps and how they end, without an engine: a dictionary records their results."""

import pytest

from service.errors import StorageFull
from service.operations.claims import claim_operation
from service.operations.records import create_operation, get_operation
from service.releases.errors import InvalidRelease
from service.storage.errors import DatabaseFull, DatabaseUnavailable
from service.worker import run as run_module
from service.worker.run import Ended, Facts, Run, WorkerStopping, reject


@pytest.fixture
def started(installation):
    """Make runs of one operation that a worker has claimed; recorded results outlast a run."""
    operation, _ = create_operation(installation.database, "build", {}, actor="test")
    recorded: dict[str, Facts] = {}

    def run_once(name, work):
        if name not in recorded:
            recorded[name] = work()
        return recorded[name]

    def start(**more) -> Run:
        claim_operation(installation.database, operation.id, "w")
        return Run(installation, operation.id, "w", {}, "test", run_once, **more)

    return start


def read(run: Run):
    with run.installation.database.reading() as session:
        return get_operation(session, run.operation_id)


def failing(error):
    def work(_):
        raise error

    return work


def test_a_step_is_performed_once_and_its_facts_are_restored(started):
    calls = []

    def work(run):
        calls.append(run.operation_id)
        return {"a": 1}

    assert started().step("one", work) == {"a": 1}
    again = started()
    assert again.step("one", work) == {"a": 1}

    assert again.facts == {"a": 1}
    assert len(calls) == 1
    assert read(again).result == {"a": 1}
    assert read(again).steps[0]["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "state", "code", "detail"),
    [
        (InvalidRelease("release x is damaged"), "failed", "invalid-release", "release x is damaged"),
        (OSError(28, "No space left on device", "/a/b"), "failed", "storage-full", "No space left"),
        (OSError(5, "Input/output error", "/a/b"), "failed", "storage-error", "Input/output error"),
        (StorageFull("the disk of the images is full"), "failed", "storage-full", "the disk of the images is full"),
        (KeyError("surprise"), "failed", "internal-error", "the worker's log"),
        (reject("gate", "not better", {"verdict": 1}), "rejected", "gate", "not better"),
    ],
)
def test_the_end_in_a_step_is_recorded_like_its_facts(started, error, state, code, detail):
    with pytest.raises(Ended) as first:
        started().step("one", failing(error))
    with pytest.raises(Ended) as again:
        started().step("one", failing(AssertionError("performed twice")))

    for ended in (first.value, again.value):
        assert (ended.state, ended.code) == (state, code)
        assert detail in ended.detail
        assert "surprise" not in ended.detail


def test_the_facts_of_a_rejection_are_kept(started):
    run = started()
    with pytest.raises(Ended):
        run.step("decide", failing(reject("gate", "not better", {"verdict": {"promote": False}})))

    assert read(run).result == {"verdict": {"promote": False}}
    assert "finished_at" in read(run).steps[0]


def test_a_cancel_ends_a_step_but_not_after_activation(started):
    run = started()
    run.step("activate", lambda _: {"is_active": False})
    with run.installation.database.transaction() as session:
        get_operation(session, run.operation_id).cancel_requested_at = read(run).created_at

    with pytest.raises(Ended) as ended:
        run.step("two", lambda run: run.check() or {})
    run.facts["is_active"] = True
    assert run.step("tidy", lambda run: run.check() or {"done": True}) == {"done": True}
    assert ended.value.state == "cancelled"


def test_a_stopping_worker_records_nothing_of_the_step(started):
    with pytest.raises(WorkerStopping):
        started(is_stopping=lambda: True).step("one", lambda run: run.report("a", 1, 2) or {})

    assert started().step("one", lambda _: {"b": 2}) == {"b": 2}


def test_a_step_is_repeated_after_an_outage_of_the_database(started, monkeypatch):
    monkeypatch.setattr(run_module, "_DATABASE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(run_module, "_DATABASE_SECONDS", 5.0)
    failures = iter([DatabaseUnavailable("away"), DatabaseUnavailable("away")])
    calls = []

    def work(_):
        calls.append(1)
        error = next(failures, None)
        if error:
            raise error
        return {"a": 1}

    assert started().step("one", work) == {"a": 1}
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (DatabaseUnavailable("away"), "database-unavailable", "cannot be used"),
        (DatabaseFull("13"), "storage-full", "full"),
    ],
)
def test_an_outage_that_lasts_fails_the_operation(started, monkeypatch, error, code, detail):
    monkeypatch.setattr(run_module, "_DATABASE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(run_module, "_DATABASE_SECONDS", 0.05)
    run = started()
    monkeypatch.setattr(run_module, "begin_step", lambda *_: failing(error)(None))

    with pytest.raises(Ended) as ended:
        run.step("one", lambda _: {})

    assert (ended.value.state, ended.value.code) == ("failed", code)
    assert detail in ended.value.detail
