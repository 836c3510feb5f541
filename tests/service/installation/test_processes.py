import os
import socket
from datetime import timedelta

import pytest
from sqlalchemy import update

from service.installation.processes import (
    beat,
    list_processes,
    living_processes,
    prune_processes,
    register_process,
    stop_process,
)
from service.storage import database as database_module
from service.storage.database import now
from service.storage.tables.processes import Process


@pytest.fixture
def database(installation):
    return installation.database


def only(database):
    with database.reading() as session:
        (process,) = list_processes(session)
    return process


def age(database, process_id, seconds, *, column="seen_at"):
    """Move the time at which the process was last seen (or stopped) into the past."""
    with database.transaction() as session:
        moment = now() - timedelta(seconds=seconds)
        session.execute(update(Process).where(Process.id == process_id).values({column: moment}))


def living(database, seconds=60.0, kind="worker"):
    with database.reading() as session:
        return sorted(process.id for process in living_processes(session, kind, seconds))


def test_a_process_is_registered_with_its_host_and_pid(database):
    process_id = register_process(database, "api")

    process = only(database)
    assert (process.id, process.kind, process.host, process.pid) == (
        process_id, "api", socket.gethostname(), os.getpid(),
    )  # fmt: skip
    assert process.release_id is None
    assert process.stopped_at is None


def test_two_processes_have_two_ids(database):
    first, second = register_process(database, "api"), register_process(database, "worker")

    with database.reading() as session:
        assert {process.id for process in list_processes(session)} == {first, second}
        assert [process.id for process in list_processes(session, kind="worker")] == [second]


def test_an_unknown_kind_is_a_value_error(database):
    with pytest.raises(ValueError, match="'cron'"):
        register_process(database, "cron")


def test_a_heartbeat_records_the_served_and_the_refused_release(database):
    process_id = register_process(database, "api")
    before = only(database)

    beat(database, process_id, release_id="r1", refusal="r2 is refused")

    process = only(database)
    assert (process.release_id, process.refusal) == ("r1", "r2 is refused")
    assert process.seen_at >= before.seen_at
    assert process.started_at == before.started_at
    beat(database, process_id, release_id="r2")
    assert only(database).refusal is None


def test_a_heartbeat_recreates_a_pruned_row(database):
    process_id = register_process(database, "worker")
    age(database, process_id, 90_000)
    with database.transaction() as session:
        assert prune_processes(session) == [process_id]

    beat(database, process_id, kind="worker", release_id="r1")

    process = only(database)
    assert (process.id, process.kind, process.release_id) == (process_id, "worker", "r1")


def test_a_process_is_gone_once_it_stops_or_its_heartbeat_is_too_old(database):
    stopped, silent, well = (register_process(database, "worker") for _ in range(3))
    stop_process(database, stopped)
    age(database, silent, 61)

    assert living(database) == [well]
    assert living(database, seconds=120) == sorted([silent, well])
    assert living(database, kind="api") == []


def test_a_heartbeat_revives_a_process_considered_gone(database):
    process_id = register_process(database, "worker")
    stop_process(database, process_id)

    beat(database, process_id, kind="worker")

    assert living(database) == [process_id]


def test_the_id_of_an_earlier_run_may_be_used_again(database):
    register_process(database, "worker", "w1")
    beat(database, "w1", kind="worker", release_id="r1")
    stop_process(database, "w1")

    assert register_process(database, "worker", "w1") == "w1"

    process = only(database)
    assert (process.stopped_at, process.release_id) == (None, None)


def test_rows_are_pruned_a_day_after_the_process_was_last_seen(database):
    old, silent, stopped, well = (register_process(database, "api") for _ in range(4))
    for process_id in (old, stopped):
        stop_process(database, process_id)
    age(database, old, 90_000, column="stopped_at")
    age(database, silent, 90_000)

    with database.transaction() as session:
        assert sorted(prune_processes(session)) == sorted([old, silent])

    with database.reading() as session:
        assert {process.id for process in list_processes(session)} == {stopped, well}


def test_machines_whose_clocks_differ_agree_on_which_processes_run(installation, monkeypatch):
    """On PostgreSQL only the clock of the server counts; SQLite has only the clock of the machine."""
    if not installation.settings.database_url:
        pytest.skip("SQLite has no clock of its own")
    database = installation.database
    process_id = register_process(database, "worker")

    monkeypatch.setattr(database_module, "now", lambda: now() + timedelta(hours=1))
    assert living(database) == [process_id]
    beat(database, process_id, kind="worker")
    monkeypatch.undo()

    assert living(database) == [process_id]
