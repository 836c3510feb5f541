"""Workers that are gone, slow, overtaken or of another version; what they do is to build releases, in seconds."""

import signal

import pytest
from sqlalchemy import delete

from service.operations.kinds import BUILD
from service.operations.records import get_operation
from service.releases.build import build_release
from service.releases.records import activate_release, active_release, list_releases
from service.storage.tables.operations import Process
from tests.service.conftest import wait_for
from tests.service.fixtures.learning import Works


@pytest.fixture
def works(works_where_told):
    """Here it is the database that could make a difference."""
    return works_where_told


def active_id(works: Works) -> str | None:
    with works.open() as installation, installation.database.reading() as session:
        return active_release(session).release_id


def test_a_release_of_the_catalogue_is_built_by_shards_and_served(works_on_both: Works):
    operation_id = works_on_both.ask(kind=BUILD)

    assert works_on_both.work("--shard-images", "10", "--kill-at", "within embed-2") == -signal.SIGKILL
    assert works_on_both.work("--shard-images", "10") == 0

    operation = works_on_both.operation(operation_id)
    assert operation.state == "succeeded", operation.error
    assert [step["name"] for step in operation.steps if "embed" in str(step["name"])] == [
        "embed-1", "embed-2", "embed-3",
    ]  # fmt: skip
    assert active_id(works_on_both) == operation.result["release"]["release_id"]  # type: ignore[index]


@pytest.mark.one_database
def test_what_changes_while_a_release_is_built_is_in_it(works: Works):
    operation_id = works.ask(kind=BUILD)

    assert works.work("--remove-product", "sample-0003") == 0

    operation = works.operation(operation_id)
    steps = [step["name"] for step in operation.steps]
    assert steps[-7:] == ["build", "catch-up", "build-2", "catch-up-2", "activate", "converge", "tidy"]
    assert operation.result["release"]["num_products"] == 29  # type: ignore[index]
    assert operation.result["num_changes_left"] == 0


@pytest.mark.one_database
def test_whoever_activated_something_meanwhile_wins(works: Works, small_checkpoint):
    operation_id = works.ask(kind=BUILD)
    assert works.work("--kill-at", "after plan") == -signal.SIGKILL
    with works.open() as installation:
        by_hand = build_release(installation, checkpoint=small_checkpoint).release_id

    assert works.work() == 0

    operation = works.operation(operation_id)
    assert (operation.state, (operation.error or {})["code"]) == ("rejected", "active-release-changed")
    assert active_id(works) == by_hand
    with works.open() as installation, installation.database.transaction() as session:
        # It is there all the same, to be activated by hand.
        assert activate_release(session, operation.result["release"]["release_id"])  # type: ignore[index]


def test_work_of_a_worker_that_is_long_forgotten_is_taken_over(works: Works):
    """Its row was pruned and its lock is on another machine: only the engine still knows of it."""
    operation_id = works.ask(kind=BUILD)
    assert works.work("--kill-at", "within plan") == -signal.SIGKILL
    for lock in works.settings.workers_dir.glob("*.lock"):
        lock.unlink()
    with works.open() as installation, installation.database.transaction() as session:
        session.execute(delete(Process))

    assert works.work() == 0

    assert works.operation(operation_id).state == "succeeded"


def test_a_worker_that_was_only_slow_can_change_nothing_any_more(works: Works):
    operation_id = works.ask(kind=BUILD)
    slow = works.start_worker("--stay", "--shard-images", "1")
    wait_for(lambda: works.operation(operation_id).step == "embed-3", 60)
    slow.send_signal(signal.SIGSTOP)
    for lock in works.settings.workers_dir.glob("*.lock"):
        lock.rename(lock.with_name(f"elsewhere.{lock.name.split('.', 1)[1]}"))

    assert works.work("--takeover-seconds", "0.5", "--shard-images", "1") == 0
    done = works.operation(operation_id)
    slow.send_signal(signal.SIGCONT)
    slow.send_signal(signal.SIGTERM)

    assert slow.wait(60) == 0
    assert done.state == "succeeded"
    assert works.operation(operation_id).updated_at == done.updated_at
    with works.open() as installation, installation.database.reading() as session:
        assert len(list_releases(session)) == 2


@pytest.mark.one_database
def test_what_another_version_began_ends_and_stands_in_nobodys_way(works: Works):
    operation_id = works.ask(kind=BUILD)
    assert works.work("--version", "0", "--kill-at", "within plan") == -signal.SIGKILL

    assert works.work() == 0

    operation = works.operation(operation_id)
    assert (operation.state, (operation.error or {})["code"]) == ("failed", "worker-upgraded")
    works.ask(kind=BUILD)
    assert works.work() == 0
    assert active_id(works) != operation.result.get("release_id")


@pytest.mark.one_database
def test_an_operation_that_kills_its_workers_fails_in_the_end(works: Works):
    operation_id = works.ask(kind=BUILD)
    assert works.work("--kill-at", "before plan") == -signal.SIGKILL
    once = works.operation(operation_id).attempts
    with works.open() as installation, installation.database.transaction() as session:
        get_operation(session, operation_id).attempts = 10

    assert works.work() == 0

    operation = works.operation(operation_id)
    assert once == 1
    assert (operation.state, (operation.error or {})["code"]) == ("failed", "worker-died")
