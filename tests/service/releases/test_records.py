"""What is served, how that came about, and the way back: the table."""

import threading
from dataclasses import replace

import pytest

from service.releases.activation import activate_verified, roll_back_verified
from service.releases.errors import ActivationConflict, InvalidRelease, NoPreviousRelease, ReleaseNotFound
from service.releases.records import (
    activate_release,
    activation_of_operation,
    active_release,
    list_activations,
    list_releases,
    mark_retired,
    needed_by_operations,
    record_release,
    roll_back,
)
from service.storage.database import now
from service.storage.tables.operations import Operation


def facts(release_id, **changes):
    return {
        "release_id": release_id,
        "created_at": now().isoformat(),
        "space_id": "space",
        "index": {"index_id": "i"},
        "watermark": 0,
        "num_products": 1,
        "num_images": 1,
        **changes,
    }


@pytest.fixture
def database(installation):
    """A database that knows three releases, none of them active."""
    with installation.database.transaction() as session:
        for release_id in ("r1", "r2", "r3"):
            record_release(session, facts(release_id))
    return installation.database


def activate(database, release_id, **options):
    with database.transaction() as session:
        return activate_release(session, release_id, **options)


def state(database):
    with database.reading() as session:
        return active_release(session)


def history(database, **options):
    with database.reading() as session:
        return list_activations(session, **options)


def test_each_activation_is_on_record_with_who_and_why(database):
    activate(database, "r1")
    activate(database, "r2", actor="admin", reason="better", operation_id="op-1")

    second, first = history(database)
    assert (first.version, first.release_id, first.previous_release_id) == (1, "r1", None)
    assert (first.activated_by, first.reason, first.operation_id) == ("command line", "", None)
    assert (second.version, second.release_id, second.previous_release_id) == (2, "r2", "r1")
    assert (second.activated_by, second.reason, second.operation_id) == ("admin", "better", "op-1")
    assert second.activated_at == state(database).activated_at


def test_an_activation_that_changes_nothing_leaves_no_record(database):
    activate(database, "r1")

    assert not activate(database, "r1")

    assert [event.release_id for event in history(database)] == ["r1"]


def test_an_activation_that_is_rolled_back_by_the_database_leaves_no_record(database):
    def fail():
        with database.transaction() as session:
            activate_release(session, "r1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert history(database) == []
    assert state(database).release_id is None


def test_the_record_can_be_narrowed_and_cut(database):
    for release_id in ("r1", "r2", "r1", "r3"):
        activate(database, release_id)

    assert [event.version for event in history(database, release_id="r1")] == [3, 1]
    assert [event.version for event in history(database, limit=2)] == [4, 3]


def test_an_operation_finds_the_activation_that_it_made(database):
    activate(database, "r1", operation_id="op-1")
    activate(database, "r2")

    with database.reading() as session:
        made = activation_of_operation(session, "op-1")
        assert made is not None
        assert made.release_id == "r1"
        assert activation_of_operation(session, "op-2") is None


def test_of_many_who_activate_upon_the_same_state_one_succeeds(database):
    activate(database, "r1")
    seen, outcomes = state(database), []

    def try_it(release_id):
        try:
            outcomes.append(activate(database, release_id, expected=seen))
        except ActivationConflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=try_it, args=(release_id,)) for release_id in ("r2", "r3") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes, key=str) == [True, *["conflict"] * 5]
    assert state(database).version == len(history(database)) == 2


def test_a_rollback_leads_to_the_one_before_and_a_second_one_back_again(database):
    activate(database, "r1")
    activate(database, "r2")

    with database.transaction() as session:
        assert roll_back(session, actor="admin", reason="worse") == "r1"
    assert (state(database).release_id, state(database).previous_release_id) == ("r1", "r2")
    assert (history(database)[0].activated_by, history(database)[0].reason) == ("admin", "worse")
    with database.transaction() as session:
        assert roll_back(session) == "r2"


def test_a_rollback_may_name_where_to(database):
    for release_id in ("r1", "r2", "r3"):
        activate(database, release_id)

    with database.transaction() as session:
        assert roll_back(session, to="r1") == "r1"

    assert state(database).previous_release_id == "r3"


def test_there_is_nothing_to_roll_back_to_before_the_second_activation(database):
    with pytest.raises(NoPreviousRelease, match="none was before; build one"), database.transaction() as session:
        roll_back(session)
    activate(database, "r1")
    with pytest.raises(NoPreviousRelease, match="before r1; choose one by its id"), database.transaction() as session:
        roll_back(session)
    with pytest.raises(ReleaseNotFound, match="'r9'"), database.transaction() as session:
        roll_back(session, to="r9")


def test_a_release_is_recorded_once_and_remembers_what_made_it(database):
    with database.transaction() as session:
        record_release(session, facts("r1", num_images=9), operation_id="op-1")
        record_release(session, facts("r4"), operation_id="op-2")
        record_release(session, facts("r4"), operation_id="op-3")

    with database.reading() as session:
        made_by = {release.id: (release.operation_id, release.num_images) for release in list_releases(session)}
    assert made_by == {"r1": ("op-1", 1), "r2": (None, 1), "r3": (None, 1), "r4": ("op-2", 1)}


def test_a_retired_release_is_listed_only_on_request(database):
    with database.transaction() as session:
        assert mark_retired(session, "r1", protected=[])
        assert not mark_retired(session, "r2", protected=["r2"])
        assert not mark_retired(session, "r9", protected=[])

    with database.reading() as session:
        assert {release.id for release in list_releases(session)} == {"r1", "r2", "r3"}
        assert {release.id for release in list_releases(session, with_retired=False)} == {"r2", "r3"}


def test_what_operations_need_is_found_however_deep_it_is_named(database):
    def operation(number, state, request, result):
        return Operation(
            id=f"op-{number}", kind=f"kind-{number}", state=state, request=request, request_sha256="0" * 64,
            created_by="admin", created_at=now(), updated_at=now(), attempts=0, steps=[], result=result,
        )  # fmt: skip

    with database.transaction() as session:
        session.add(
            operation(
                1, "running", {"base_release_id": "r1"},
                {"release": {"release_id": "r2"}, "candidate": {"space_id": "s"}, "compared_release_id": None},
            )
        )  # fmt: skip
        session.add(operation(2, "queued", {"base_release_id": "r3"}, {}))
        session.add(operation(3, "failed", {"base_release_id": "r4"}, {"space_id": "t"}))

    with database.reading() as session:
        needed = needed_by_operations(session)
    assert needed.release_ids == {"r1", "r2", "r3"}
    assert needed.space_ids == {"s"}
    assert needed.knows_spaces


@pytest.fixture
def on_disk(installation, database, monkeypatch):
    """The three releases, whose files are fine but for those named."""
    damaged: set[str] = set()

    def verify(releases_dir, release_id):
        if release_id in damaged:
            raise InvalidRelease(f"release {release_id} is refused: file 'rows.arrow' differs from its checksum")
        return {}

    monkeypatch.setattr("service.releases.activation.read_release_facts", verify)
    return damaged


def test_nothing_damaged_is_activated(installation, on_disk):
    activate(installation.database, "r1")
    activate(installation.database, "r2")
    on_disk |= {"r1", "r3"}

    for do in (lambda: activate_verified(installation, "r3"), lambda: roll_back_verified(installation)):
        with pytest.raises(InvalidRelease, match=r"rows\.arrow"):
            do()

    assert state(installation.database).release_id == "r2"


def test_an_expected_version_guards_the_choice(installation, on_disk):
    activate(installation.database, "r1")

    activated = activate_verified(installation, "r2", expected_version=1)

    assert activated == replace(activated, release_id="r2", previous_release_id="r1", version=2, has_changed=True)
    for do in (
        lambda: activate_verified(installation, "r3", expected_version=1),
        lambda: roll_back_verified(installation, expected_version=1),
    ):
        with pytest.raises(ActivationConflict, match=r"version 2, not 1: release r2 is active; look and try again"):
            do()


def test_a_rollback_never_leads_past_an_activation_that_came_in_between(installation, on_disk, monkeypatch):
    """Its target was chosen upon a state that no longer holds."""
    for release_id in ("r1", "r2"):
        activate(installation.database, release_id)

    def meanwhile(*_):
        activate(installation.database, "r3")
        return {}

    monkeypatch.setattr("service.releases.activation.read_release_facts", meanwhile)

    with pytest.raises(ActivationConflict):
        roll_back_verified(installation)

    assert state(installation.database).release_id == "r3"
