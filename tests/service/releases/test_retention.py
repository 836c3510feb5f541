"""Retiring old releases: what is kept, and that an interrupted run is continued by the next one."""

import json
import logging
import shutil
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import func, select, update

from service.embeddings.stored import remove_embeddings
from service.installation.processes import beat, register_process, stop_process
from service.releases import retention
from service.releases.activation import roll_back_verified
from service.releases.build import build_release, only_builder
from service.releases.errors import BuilderBusy, ReleaseError, ReleaseNotFound
from service.releases.records import (
    activate_release,
    active_release,
    forget_release,
    mark_retired,
    record_release,
    select_activations,
    select_releases,
)
from service.releases.retention import retire_old_releases
from service.storage.database import now
from service.storage.tables.embeddings import StoredEmbedding
from service.storage.tables.operations import Operation
from service.storage.tables.processes import Process
from service.storage.tables.releases import Release


@pytest.fixture
def publish(installation):
    """Make a placeholder of a release: its row, a directory with a file, and two embeddings of its space."""
    numbers = iter(range(1, 100))

    def publish(*, activate=False, space_id=None):
        number = next(numbers)
        release_id = f"r{number:02d}"
        space_id = space_id or f"space-{number:02d}"
        directory = installation.settings.releases_dir / release_id
        (directory / "index").mkdir(parents=True)
        (directory / "index" / "embeddings.npy").write_bytes(b"x" * 100)
        facts = {
            "release_id": release_id,
            "created_at": (now() + timedelta(seconds=number)).isoformat(),
            "space_id": space_id,
            "index": {"index_id": "i"},
            "watermark": 0,
            "num_products": 1,
            "num_images": 1,
        }
        with installation.database.transaction() as session:
            record_release(session, facts)
            for digest in ("a" * 64, "b" * 64):
                session.merge(StoredEmbedding(space_id=space_id, sha256=digest, embedding=np.zeros(4, "<f4").tobytes()))
        if activate:
            with installation.database.transaction() as session:
                activate_release(session, release_id)
        return release_id

    return publish


@pytest.fixture
def seven(publish):
    """Releases r01 to r07, activated in this order."""
    return [publish(activate=True) for _ in range(7)]


def remaining(installation):
    with installation.database.reading() as session:
        return sorted(release.id for release in select_releases(session))


def folders(installation):
    return sorted(path.name for path in installation.settings.releases_dir.iterdir() if path.name != ".lock")


def spaces(installation):
    with installation.database.reading() as session:
        return sorted(session.scalars(select(StoredEmbedding.space_id).distinct()))


def add_operation(installation, *, state="running", request=None, result=None, kind="retrain"):
    moment = now()
    with installation.database.transaction() as session:
        session.add(
            Operation(
                id=f"op-{kind}", kind=kind, state=state, step=None, request=request or {}, request_sha256="0" * 64,
                idempotency_key=None, created_by="admin", created_at=moment, started_at=None, updated_at=moment,
                finished_at=None, cancel_requested_at=None, worker_id=None, attempts=0, progress=None, steps=[],
                result=result or {}, error=None,
            )
        )  # fmt: skip


def test_keeps_the_active_the_previous_and_the_newest(installation, seven):
    assert retire_old_releases(installation, keep=2) == ["r01", "r02", "r03"]

    assert remaining(installation) == folders(installation) == ["r04", "r05", "r06", "r07"]
    assert spaces(installation) == ["space-04", "space-05", "space-06", "space-07"]


def test_the_number_kept_defaults_to_the_setting(installation, seven):
    assert installation.settings.release_retention == 5

    assert retire_old_releases(installation) == []

    assert len(remaining(installation)) == 7


def test_old_releases_are_kept_while_active_or_previous(installation, seven):
    with installation.database.transaction() as session:
        activate_release(session, "r01")
        activate_release(session, "r02")

    retire_old_releases(installation, keep=0)

    assert remaining(installation) == ["r01", "r02"]


def test_activations_of_retired_releases_are_kept(installation, seven):
    retire_old_releases(installation, keep=0)

    with installation.database.reading() as session:
        assert [event.release_id for event in select_activations(session)] == list(reversed(seven))


def test_releases_of_living_servers_are_kept(installation, seven):
    database = installation.database
    living, stopped, silent, worker = (register_process(database, kind) for kind in ("api", "api", "api", "worker"))
    for process_id, release_id in ((living, "r01"), (stopped, "r02"), (silent, "r03"), (worker, "r04")):
        beat(database, process_id, release_id=release_id)
    stop_process(database, stopped)
    with database.transaction() as session:
        long_ago = now() - timedelta(hours=1)
        session.execute(update(Process).where(Process.id == silent).values(seen_at=long_ago))

    assert retire_old_releases(installation, keep=0) == ["r02", "r03", "r04", "r05"]

    assert remaining(installation) == ["r01", "r06", "r07"]


def test_releases_named_by_active_operations_are_kept(installation, seven):
    add_operation(installation, request={"base_release_id": "r01"}, result={"compared_release_id": "r02"})
    add_operation(installation, kind="build", state="queued", request={"base_release_id": "r03"})
    add_operation(installation, kind="other", state="succeeded", result={"release_id": "r04"})

    assert retire_old_releases(installation, keep=0, needed=["r05"]) == ["r04"]


def test_embeddings_of_a_kept_releases_space_are_kept(installation, publish):
    for _ in range(4):
        publish(activate=True, space_id="shared")

    retire_old_releases(installation, keep=0)

    assert spaces(installation) == ["shared"]


def test_embeddings_of_needed_spaces_are_kept(installation, seven):
    add_operation(installation, result={"space_id": "space-01"})

    retire_old_releases(installation, keep=0, needed_spaces=["space-02"])

    assert spaces(installation) == ["space-01", "space-02", "space-06", "space-07"]


def test_no_embeddings_are_removed_while_an_operation_has_not_named_its_space(installation, seven):
    add_operation(installation)

    retire_old_releases(installation, keep=0)

    assert remaining(installation) == ["r06", "r07"]
    assert len(spaces(installation)) == 7
    with installation.database.transaction() as session:
        session.execute(update(Operation).values(state="failed"))
    retire_old_releases(installation, keep=0)
    assert spaces(installation) == ["space-06", "space-07"]


def test_embeddings_are_removed_in_batches(installation, publish, monkeypatch):
    publish()
    with installation.database.transaction() as session:
        for number in range(7):
            session.add(StoredEmbedding(space_id="large", sha256=f"{number:064x}", embedding=b""))
    monkeypatch.setattr("service.embeddings.stored.KEYS_PER_QUERY", 3)

    assert remove_embeddings(installation.database, "large") == 7

    assert spaces(installation) == ["space-01"]


def test_a_release_whose_directory_is_missing_is_left_alone(installation, seven, caplog):
    shutil.move(installation.settings.releases_dir / "r01", installation.settings.home / "elsewhere")

    with caplog.at_level(logging.WARNING):
        assert retire_old_releases(installation, keep=0) == ["r02", "r03", "r04", "r05"]

    assert remaining(installation) == ["r01", "r06", "r07"]
    assert "release r01 is not in" in caplog.text
    assert "space-01" in spaces(installation)


def test_a_dry_run_changes_nothing(installation, seven):
    assert retire_old_releases(installation, keep=3, dry_run=True) == ["r01", "r02"]

    assert remaining(installation) == folders(installation) == seven


def test_is_refused_while_a_release_is_built(installation, seven):
    with only_builder(installation.settings), pytest.raises(BuilderBusy):
        retire_old_releases(installation, keep=0)

    assert len(remaining(installation)) == 7


def test_a_negative_number_is_refused(installation):
    with pytest.raises(ValueError, match="-1"):
        retire_old_releases(installation, keep=-1)


def test_a_retired_release_cannot_be_activated(installation, seven, monkeypatch):
    monkeypatch.setattr(retention, "_remove_retired", stop)
    with pytest.raises(KeyboardInterrupt):
        retire_old_releases(installation, keep=0)

    with pytest.raises(ReleaseNotFound, match=r"'r01' was retired at .* UTC.*akin release list"):
        roll_back_verified(installation, to="r01")
    with pytest.raises(ReleaseNotFound), installation.database.transaction() as session:
        activate_release(session, "r01")
    with installation.database.reading() as session:
        assert active_release(session).release_id == "r07"


def test_a_release_activated_after_the_list_was_made_is_kept(installation, seven, monkeypatch):
    list_old = retention._old_releases

    def list_then_activate(*arguments):
        old = list_old(*arguments)
        with installation.database.transaction() as session:
            activate_release(session, "r02")
        return old

    monkeypatch.setattr(retention, "_old_releases", list_then_activate)

    assert "r02" not in retire_old_releases(installation, keep=0)

    assert "r02" in folders(installation)


def stop(*_, **__):
    raise KeyboardInterrupt


def after(function):
    """Return the function, interrupted after its work."""

    def run(*arguments, **options):
        function(*arguments, **options)
        raise KeyboardInterrupt

    return run


def delete_one_file(directory):
    """Delete one file of the directory, then interrupt."""
    next(path for path in directory.rglob("*") if path.is_file()).unlink()
    raise KeyboardInterrupt


KILL_POINTS = {
    "after the first is marked": ("mark_retired", lambda: after_commits(1)),
    "before any is hidden": ("_hide", lambda: stop),
    "after the first is hidden": ("_hide", lambda: after(retention._hide)),
    "while files are deleted": ("shutil.rmtree", lambda: delete_one_file),
    "after files were deleted": ("shutil.rmtree", lambda: after(shutil.rmtree)),
    "before rows are deleted": ("forget_release", lambda: stop),
    "while rows are deleted": ("forget_release", lambda: after(forget_release)),
    "before embeddings are deleted": ("stored_spaces", lambda: stop),
    "after embeddings of the first space are deleted": ("remove_embeddings", lambda: after(remove_embeddings)),
}


def after_commits(number):
    """Return `mark_retired`, interrupted after this number of releases."""
    calls: list[object] = []

    def run(*arguments):
        if len(calls) == number:
            raise KeyboardInterrupt
        calls.append(arguments)
        return mark_retired(*arguments)

    return run


@pytest.mark.parametrize("point", KILL_POINTS)
def test_the_next_run_continues_an_interrupted_one(installation, seven, monkeypatch, point):
    name, replacement = KILL_POINTS[point]
    with monkeypatch.context() as context:
        context.setattr(f"service.releases.retention.{name}", replacement())
        with pytest.raises(KeyboardInterrupt):
            retire_old_releases(installation, keep=2)
    with installation.database.reading() as session:
        served = session.scalars(select(Release.id).where(Release.retired_at.is_(None))).all()
    # Releases that can still be activated are complete.
    assert set(served) <= set(folders(installation))
    assert {"r04", "r05", "r06", "r07"} <= set(served)

    retire_old_releases(installation, keep=2)

    assert remaining(installation) == folders(installation) == ["r04", "r05", "r06", "r07"]
    assert spaces(installation) == ["space-04", "space-05", "space-06", "space-07"]


def test_files_that_cannot_be_deleted_are_reported_and_retried(installation, seven, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as context:
        context.setattr("service.releases.retention.shutil.rmtree", refused)
        with pytest.raises(ReleaseError, match=r"Permission denied.*akin release prune"):
            retire_old_releases(installation, keep=0)
    assert len(remaining(installation)) == 7

    retire_old_releases(installation, keep=0)

    assert remaining(installation) == folders(installation) == ["r06", "r07"]


def test_a_build_does_not_record_a_release_that_is_being_removed(copied_shop, tiny_checkpoint, monkeypatch):
    """A complete release under a hidden name, left by an interrupted removal."""
    shop, (first, second, third) = copied_shop(3)
    with monkeypatch.context() as context:
        context.setattr("service.releases.retention.shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            retire_old_releases(shop, keep=0)
    assert f".retired-{first}" in folders(shop)

    fourth = build_release(shop, checkpoint=tiny_checkpoint).release_id

    with shop.database.reading() as session:
        listed = [release.id for release in select_releases(session, with_retired=False)]
        assert session.scalar(select(func.count()).select_from(StoredEmbedding)) == 6
    assert sorted(listed) == sorted([second, third, fourth])
    assert json.loads((shop.settings.releases_dir / fourth / "manifest.json").read_text())
