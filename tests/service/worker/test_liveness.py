"""Who is taken for gone, and when nobody is."""

import time

import pytest

from service.installation.processes import beat, list_processes
from service.storage.errors import DatabaseUnavailable
from service.worker import liveness as living
from service.worker.liveness import alive, living_workers
from tests.service.conftest import wait_for


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(living, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(living, "_SETTLING_SECONDS", 0.5)


def seen_at(installation):
    with installation.database.reading() as session:
        (process,) = list_processes(session)
    return process.seen_at


def test_a_worker_says_that_it_lives_whatever_else_it_waits_for(installation, quick):
    with alive(installation, "w") as heart:
        first = seen_at(installation)
        wait_for(lambda: seen_at(installation) > first)

        assert heart.is_settled
        assert living_workers(installation, "another") == {"w", "another"}
    assert living_workers(installation, "another") == {"another"}


def test_after_an_outage_nobody_is_taken_for_gone_until_all_had_time_to_say_that_they_live(
    installation, quick, monkeypatch
):
    failures = iter(range(3))

    def fail_first(*arguments, **options):
        if next(failures, None) is not None:
            raise DatabaseUnavailable("away")
        beat(*arguments, **options)

    monkeypatch.setattr(living, "beat", fail_first)

    with alive(installation, "w") as heart:
        before = seen_at(installation)
        wait_for(lambda: not heart.is_settled)
        back = time.monotonic()
        wait_for(lambda: seen_at(installation) > before)
        assert not heart.is_settled
        wait_for(lambda: heart.is_settled)
        assert time.monotonic() - back < 5
