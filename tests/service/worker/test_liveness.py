"""Which workers are taken for dead, and when none is."""

from dataclasses import replace

from sqlalchemy import delete

from service.installation.processes import list_processes
from service.storage.errors import DatabaseUnavailable
from service.storage.tables.processes import Process
from service.worker import liveness
from service.worker.liveness import Heartbeat, living_workers, registered_worker
from tests.service.conftest import wait_for


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def seen_at(installation):
    with installation.database.reading() as session:
        (process,) = list_processes(session)
    return process.seen_at


def test_a_registered_worker_lives_until_it_ends(installation, monkeypatch):
    monkeypatch.setattr(liveness, "_BEAT_SECONDS", 0.02)

    with registered_worker(installation, "w") as heartbeat:
        first = seen_at(installation)
        wait_for(lambda: seen_at(installation) > first)

        assert heartbeat.is_silence_meaningful
        assert living_workers(installation, "another") == {"w", "another"}
    assert living_workers(installation, "another") == {"another"}


def test_a_silent_worker_whose_lock_is_held_lives(installation):
    settings = installation.settings.model_copy(update={"worker_takeover_seconds": 0.0})

    with registered_worker(installation, "w"):
        assert living_workers(replace(installation, settings=settings), "another") == {"w", "another"}


def test_a_worker_whose_lock_is_free_is_dead_at_once(installation):
    with registered_worker(installation, "w"):
        (lock,) = installation.settings.workers_dir.glob("*.lock")
        lock.unlink()
        lock.touch()  # as if the process that held it had died

        assert living_workers(installation, "another") == {"another"}
        assert list(installation.settings.workers_dir.glob("*.lock")) == []


def test_a_worker_without_a_row_and_a_lock_is_dead(installation):
    """Rows are pruned a day after the last heartbeat; only the engine still names such a worker."""
    with registered_worker(installation, "w"):
        (lock,) = installation.settings.workers_dir.glob("*.lock")
        lock.unlink()
        with installation.database.transaction() as session:
            session.execute(delete(Process))

        assert living_workers(installation, "another") == {"another"}


def test_a_worker_of_another_machine_is_dead_once_its_heartbeat_is_too_old(installation):
    settings = installation.settings.model_copy(update={"worker_takeover_seconds": 0.0})

    with registered_worker(installation, "w"):
        (lock,) = installation.settings.workers_dir.glob("*.lock")
        lock.rename(lock.with_name("elsewhere.w.lock"))

        assert living_workers(replace(installation, settings=settings), "another") == {"another"}
        lock.with_name("elsewhere.w.lock").rename(lock)


def test_a_lock_of_another_machine_says_nothing(installation):
    with registered_worker(installation, "w"):
        (lock,) = installation.settings.workers_dir.glob("*.lock")
        lock.unlink()
        lock.with_name("elsewhere.w.lock").touch()

        assert living_workers(installation, "another") == {"w", "another"}


def test_after_an_outage_silence_means_nothing_until_all_had_time_to_report(installation, monkeypatch):
    clock = Clock()
    heartbeat = Heartbeat(installation, "w", clock=clock)
    before = heartbeat.is_silence_meaningful
    with monkeypatch.context() as patch:
        patch.setattr(liveness, "beat", fail)
        heartbeat.beat()
    away = heartbeat.is_silence_meaningful

    heartbeat.beat()
    clock.seconds += liveness._SETTLING_SECONDS - 1
    soon = heartbeat.is_silence_meaningful
    clock.seconds += 1

    assert (before, away, soon, heartbeat.is_silence_meaningful) == (True, False, False, True)
    assert seen_at(installation) is not None


def fail(*_arguments, **_options):
    raise DatabaseUnavailable("away")
