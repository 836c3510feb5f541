"""Build, publish and activate beside others that do the same: each waits for the builder's lock, and the first wins."""

import errno
import threading
from typing import Any

import pytest

from service.catalogue.editing import remove_products
from service.operations.cancelling import request_cancel
from service.operations.claims import claim_operation
from service.operations.kinds import BUILD, RETRAIN
from service.operations.records import create_operation, get_operation
from service.releases.build import build_release, only_builder
from service.releases.records import activate_release, active_release, select_releases
from service.worker.operation_runner import OperationRunner
from service.worker.run import Ended, Run
from service.worker.steps import publishing
from service.worker.steps.embedding import plan_embedding
from service.worker.steps.publishing import activate, build, build_again
from service.worker.workflows import WORKFLOWS, build_from_catalogue
from tests.service.conftest import PRODUCTS
from tests.service.fixtures.tiny_model import save_tiny_checkpoint


@pytest.fixture
def served(shop, tmp_path):
    """A shop with an active release."""
    build_release(shop, checkpoint=save_tiny_checkpoint(tmp_path / "tiny"))
    return shop


@pytest.fixture
def run(served):
    """The run of a build that has planned its embedding."""
    operation_id = create_operation(served.database, BUILD, {}, actor="test")[0].id
    claim_operation(served.database, operation_id, "w")
    run = Run(served, operation_id, "w", {}, "test", lambda _, work: work())
    run.facts |= plan_embedding(run)
    return run


def test_a_build_waits_while_another_process_builds(run, monkeypatch):
    lock = only_builder(run.installation.settings)
    waits = []

    def wait(_):
        waits.append(1)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(publishing, "wait_for_builder", wait)
    lock.__enter__()

    facts = build(run)

    assert waits == [1]
    assert facts["release"]["release_id"] == run.facts["release_id"]


def test_a_cancel_ends_the_wait_for_another_builder(run):
    request = request_cancel(run.installation.database, run.operation_id)
    assert request.state == "cancelled"  # no worker "w" is registered
    with run.installation.database.transaction() as session:
        get_operation(session, run.operation_id).state = "running"

    with only_builder(run.installation.settings), pytest.raises(Ended) as ended:
        build(run)

    assert ended.value.state == "cancelled"


def test_a_release_is_not_activated_over_one_that_was_activated_meanwhile(run, tmp_path):
    run.facts |= build(run)
    other = build_release(run.installation, checkpoint=tmp_path / "tiny").release_id

    with pytest.raises(Ended) as ended:
        activate(run)

    assert (ended.value.state, ended.value.code) == ("rejected", "active-release-changed")
    with run.installation.database.transaction() as session:
        assert active_release(session).release_id == other
        # It is published all the same, and can be activated by hand.
        assert activate_release(session, run.facts["release"]["release_id"])


def change_catalogue_within(run, *points):
    """Remove another product of the catalogue at each of these points of the workflow."""
    products = iter(PRODUCTS)

    def on_point(point):
        if point in points:
            with run.installation.database.transaction() as session:
                remove_products(session, [next(products)])

    run.on_point, run.request = on_point, {"activate": False}


def steps_of(run):
    with run.installation.database.reading() as session:
        return [step["name"] for step in get_operation(session, run.operation_id).steps]


def result_of(run) -> Any:
    with run.installation.database.reading() as session:
        return get_operation(session, run.operation_id).result


def published(run):
    with run.installation.database.reading() as session:
        return {release.id for release in select_releases(session)}


def test_a_release_catches_up_once_with_a_catalogue_that_changed_meanwhile(run):
    before = published(run)
    change_catalogue_within(run, "within build")

    build_from_catalogue(run)

    assert steps_of(run) == ["plan", "embed-1", "build", "catch-up", "build-2", "catch-up-2", "tidy"]
    result = result_of(run)
    assert result["num_changes_left"] == 0
    assert result["release"]["num_products"] == len(PRODUCTS) - 1
    # The superseded release is gone: it takes no place among those that are kept.
    assert published(run) == before | {result["release"]["release_id"]}
    directories = [path.name for path in run.installation.settings.releases_dir.iterdir() if path.is_dir()]
    assert set(directories) == published(run)


def test_a_catalogue_that_changes_during_every_build_is_built_twice_and_the_rest_reported(run):
    change_catalogue_within(run, "within build", "within build-2")

    build_from_catalogue(run)

    assert [step for step in steps_of(run) if step.startswith("build")] == ["build", "build-2"]
    assert result_of(run)["num_changes_left"] > 0


def test_many_changes_are_reported_and_not_built_again(run, monkeypatch):
    monkeypatch.setattr(publishing, "_FEW_CHANGES", 0)
    change_catalogue_within(run, "within build")

    build_from_catalogue(run)

    assert steps_of(run) == ["plan", "embed-1", "build", "catch-up", "tidy"]
    assert result_of(run)["num_changes_left"] > 0


def test_a_second_build_that_is_repeated_after_a_kill_leaves_one_release(run):
    before = published(run)
    run.facts |= build(run)
    first = dict(run.facts)
    run.facts |= build_again(run)
    caught_up = run.facts["release"]["release_id"]

    run.facts = first
    run.facts |= build_again(run)

    assert run.facts["release"]["release_id"] == caught_up
    assert published(run) == before | {caught_up}


def test_a_second_build_that_fails_leaves_the_first_release(run, monkeypatch):
    run.facts |= build(run)
    first = run.facts["release"]["release_id"]

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(publishing, "build_release", fail)
    run.facts |= build_again(run)

    assert "no space left" in run.facts["catch_up_error"]
    assert run.facts["release"]["release_id"] == first
    assert first in published(run)


def test_a_superseded_release_that_was_activated_by_hand_is_kept(run):
    run.facts |= build(run)
    first = run.facts["release"]["release_id"]
    with run.installation.database.transaction() as session:
        activate_release(session, first)

    run.facts |= build_again(run)

    assert {first, run.facts["release"]["release_id"]} <= published(run)


def test_an_activation_that_is_repeated_after_a_kill_changes_nothing(run):
    run.facts |= build(run)
    first = activate(run)
    with run.installation.database.reading() as session:
        version = active_release(session).version

    assert activate(run) == first

    with run.installation.database.reading() as session:
        assert active_release(session).version == version


def test_a_retrain_and_a_build_that_publish_at_the_same_time_both_end(served, monkeypatch):
    """Both compared with the same release: the first to activate succeeds, the other says that it was overtaken."""
    monkeypatch.setitem(WORKFLOWS, RETRAIN, build_from_catalogue)  # what matters of it: it publishes
    both_planned = threading.Barrier(2)

    def on_point(point):
        if point == "after plan":
            both_planned.wait(60)

    runner = OperationRunner(served, "w", lambda _, work: work(), on_point=on_point, record_step=lambda *_: None)
    ids = [create_operation(served.database, kind, {}, actor="test")[0].id for kind in (RETRAIN, BUILD)]
    threads = [threading.Thread(target=runner.perform, args=(operation_id,)) for operation_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    with served.database.reading() as session:
        ended = {operation.state: operation for operation in (get_operation(session, id_) for id_ in ids)}
        published = {release.id for release in select_releases(session)}
        active_id = active_release(session).release_id
    assert set(ended) == {"succeeded", "rejected"}
    assert (ended["rejected"].error or {})["code"] == "active-release-changed"
    results: dict[str, Any] = {state: operation.result for state, operation in ended.items()}
    assert active_id == results["succeeded"]["release"]["release_id"]
    assert {result["release"]["release_id"] for result in results.values()} < published
