"""Worker processes that are killed or stopped while they build a release."""

import signal

import pytest

from service.operations.kinds import BUILD
from service.releases.records import active_release, select_releases
from tests.service.conftest import wait_for
from tests.service.fixtures.learning import Works

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def works(works_where_told):
    """A shop on the database that --database names."""
    return works_where_told


def active_id(works: Works) -> str | None:
    with works.open() as installation, installation.database.reading() as session:
        return active_release(session).release_id


def test_a_build_that_is_killed_between_shards_continues_and_is_activated(works_on_both: Works):
    operation_id = works_on_both.ask(kind=BUILD)

    assert works_on_both.work("--shard-images", "10", "--kill-at", "within embed-2") == -signal.SIGKILL
    assert works_on_both.work("--shard-images", "10") == 0

    operation = works_on_both.operation(operation_id)
    assert operation.state == "succeeded", operation.error
    assert [step["name"] for step in operation.steps if "embed" in str(step["name"])] == [
        "embed-1", "embed-2", "embed-3",
    ]  # fmt: skip
    assert active_id(works_on_both) == operation.result["release"]["release_id"]  # type: ignore[index]


def test_a_worker_that_was_declared_dead_and_wakes_up_changes_nothing(works: Works):
    operation_id = works.ask(kind=BUILD)
    slow = works.start_worker("--stay", "--shard-images", "1")
    wait_for(lambda: works.operation(operation_id).step == "embed-3", 300)
    works.freeze(slow)
    for lock in works.settings.workers_dir.glob("*.lock"):
        lock.rename(lock.with_name(f"elsewhere.{lock.name.split('.', 1)[1]}"))

    assert works.work("--takeover-seconds", "0.5", "--shard-images", "1") == 0, works.last_log()
    done = works.operation(operation_id)
    slow.send_signal(signal.SIGCONT)
    slow.send_signal(signal.SIGTERM)

    assert slow.wait(300) == 0
    assert done.state == "succeeded"
    assert works.operation(operation_id).updated_at == done.updated_at
    with works.open() as installation, installation.database.reading() as session:
        assert len(select_releases(session)) == 2
