"""The tables of releases and activations; activation and rollback of verified releases."""

import threading
from dataclasses import replace

import pytest

from service.releases.activation import activate_verified, roll_back_verified
from service.releases.errors import ActivationConflict, InvalidRelease, NoPreviousRelease, ReleaseNotFound
from service.releases.records import (
    activate_release,
    activation_of_operation,
    active_release,
    mark_retired,
    needed_by_operations,
    record_release,
    select_activations,
    select_releases,
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
    """A database with three releases, none of them active."""
    with installation.database.transaction() as session:
        for release_id in ("r1", "r2", "r3"):
            record_release(session, facts(release_id))
    return installation.database


def activate(database, release_id, **options):
    with database.transaction() as session:
        return activate_release(session, release_id, **options)


def present(database):
    with database.reading() as session:
        return active_release(session)


def history(database, **options):
    with database.reading() as session:
        return select_activations(session, **options)


def test_each_activation_is_recorded_with_actor_and_reason(database):
    activate(database, "r1")
    activate(database, "r2", actor="admin", reason="better", operation_id="op-1")

    second, first = history(database)
    assert (first.version, first.release_id, first.previous_release_id) == (1, "r1", None)
    assert (first.activated_by, first.reason, first.operation_id) == ("command line", "", None)
    assert (second.version, second.release_id, second.previous_release_id) == (2, "r2", "r1")
    assert (second.activated_by, second.reason, second.operation_id) == ("admin", "better", "op-1")
    assert second.activated_at == present(database).activated_at


def test_activating_the_active_release_records_nothing(database):
    activate(database, "r1")

    assert not activate(database, "r1")

    assert [event.release_id for event in history(database)] == ["r1"]


def test_a_transaction_that_fails_leaves_no_activation(database):
    def fail():
        with database.transaction() as session:
            activate_release(session, "r1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert history(database) == []
    assert present(database).release_id is None


def test_activations_can_be_filtered_and_limited(database):
    for release_id in ("r1", "r2", "r1", "r3"):
        activate(database, release_id)

    assert [event.version for event in history(database, release_id="r1")] == [3, 1]
    assert [event.version for event in history(database, limit=2)] == [4, 3]


def test_finds_the_activation_made_by_an_operation(database):
    activate(database, "r1", operation_id="op-1")
    activate(database, "r2")

    with database.reading() as session:
        made = activation_of_operation(session, "op-1")
        assert made is not None
        assert made.release_id == "r1"
        assert activation_of_operation(session, "op-2") is None


def test_one_of_several_activations_based_on_the_same_state_succeeds(database):
    activate(database, "r1")
    expected, outcomes = present(database), []

    def try_to_activate(release_id):
        try:
            outcomes.append(activate(database, release_id, expected=expected))
        except ActivationConflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=try_to_activate, args=(release_id,)) for release_id in ("r2", "r3") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes, key=str) == [True, *["conflict"] * 5]
    assert present(database).version == len(history(database)) == 2


def test_recording_a_release_again_changes_only_a_missing_operation(database):
    with database.transaction() as session:
        record_release(session, facts("r1", num_images=9), operation_id="op-1")
        record_release(session, facts("r4"), operation_id="op-2")
        record_release(session, facts("r4"), operation_id="op-3")

    with database.reading() as session:
        made_by = {release.id: (release.operation_id, release.num_images) for release in select_releases(session)}
    assert made_by == {"r1": ("op-1", 1), "r2": (None, 1), "r3": (None, 1), "r4": ("op-2", 1)}


def test_retired_releases_can_be_left_out(database):
    with database.transaction() as session:
        assert mark_retired(session, "r1", protected=[])
        assert not mark_retired(session, "r2", protected=["r2"])
        assert not mark_retired(session, "r9", protected=[])

    with database.reading() as session:
        assert {release.id for release in select_releases(session)} == {"r1", "r2", "r3"}
        assert {release.id for release in select_releases(session, with_retired=False)} == {"r2", "r3"}


def test_finds_what_operations_name_in_nested_values(database):
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
def damaged(installation, database, monkeypatch):
    """Replace the verification of files; the test adds the ids of damaged releases to this set."""
    ids: set[str] = set()

    def verify(releases_dir, release_id):
        if release_id in ids:
            raise InvalidRelease(f"release {release_id} is refused: file 'rows.arrow' differs from its checksum")
        return {}

    monkeypatch.setattr("service.releases.activation.verify_release", verify)
    return ids


def test_a_damaged_release_is_not_activated(installation, damaged):
    activate(installation.database, "r1")
    activate(installation.database, "r2")
    damaged |= {"r1", "r3"}

    for change in (lambda: activate_verified(installation, "r3"), lambda: roll_back_verified(installation)):
        with pytest.raises(InvalidRelease, match=r"rows\.arrow"):
            change()

    assert present(installation.database).release_id == "r2"


def test_an_expected_version_must_match(installation, damaged):
    activate(installation.database, "r1")

    activated = activate_verified(installation, "r2", expected_version=1)

    assert activated == replace(activated, release_id="r2", previous_release_id="r1", version=2, has_changed=True)
    for change in (
        lambda: activate_verified(installation, "r3", expected_version=1),
        lambda: roll_back_verified(installation, expected_version=1),
    ):
        with pytest.raises(ActivationConflict, match=r"version 2, not 1: release r2 is active; check it and try again"):
            change()


def test_a_rollback_conflicts_with_an_activation_in_between(installation, damaged, monkeypatch):
    """Its target depends on the activation, which has changed since the target was chosen."""
    for release_id in ("r1", "r2"):
        activate(installation.database, release_id)

    def activate_another(*_):
        activate(installation.database, "r3")
        return {}

    monkeypatch.setattr("service.releases.activation.verify_release", activate_another)

    with pytest.raises(ActivationConflict):
        roll_back_verified(installation)

    assert present(installation.database).release_id == "r3"


def test_a_rollback_activates_the_previous_release_and_a_second_one_undoes_it(installation, damaged):
    activate(installation.database, "r1")
    activate(installation.database, "r2")

    rolled_back = roll_back_verified(installation, actor="admin", reason="worse")
    event = history(installation.database)[0]
    again = roll_back_verified(installation)

    assert (rolled_back.release_id, rolled_back.previous_release_id) == ("r1", "r2")
    assert (event.activated_by, event.reason) == ("admin", "worse")
    assert again.release_id == "r2"


def test_a_rollback_can_name_its_target(installation, damaged):
    for release_id in ("r1", "r2", "r3"):
        activate(installation.database, release_id)

    assert roll_back_verified(installation, to="r1").previous_release_id == "r3"


def test_there_is_nothing_to_roll_back_to_before_the_second_activation(installation, damaged):
    with pytest.raises(NoPreviousRelease, match="none was before; build one"):
        roll_back_verified(installation)
    activate(installation.database, "r1")
    with pytest.raises(NoPreviousRelease, match="before r1; choose one by its id"):
        roll_back_verified(installation)
    with pytest.raises(ReleaseNotFound, match=r"'r9'.*akin release list"):
        roll_back_verified(installation, to="r9")
