"""A release is published atomically, whichever call fails and whenever the process is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedding import artifact
from embedding.artifact import new_artifact, verify_artifact
from service.errors import ServiceError
from service.releases.build import build_release
from service.releases.files import verify_release
from service.releases.records import active_release, select_releases

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def publish_under_faults(library, home, stride):
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.releases.publishing_under_faults", str(home), str(stride)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check(found, stride):
    assert found["problems"] == []
    assert found["num_calls"] > 80
    for mode, outcomes in found["outcomes"].items():
        assert sum(outcomes.values()) >= found["num_calls"] // stride, mode
        # A few calls may fail without harm, for example those on the index of SQLite's log.
        assert outcomes["published"] <= sum(outcomes.values()) / 4, mode
    assert found["outcomes"]["killed"]["killed"] == sum(found["outcomes"]["killed"].values())


@pytest.mark.long
def test_a_failing_or_last_call_leaves_the_old_release_active_and_nothing_incomplete(disk_faults, tmp_path):
    """One in 24 of all writes, flushes, renames and new directories of Python, Arrow, safetensors and SQLite."""
    check(publish_under_faults(disk_faults, tmp_path / "home", 24), 24)


@pytest.mark.slow
def test_every_call_may_fail_or_be_the_last(disk_faults, tmp_path):
    found = publish_under_faults(disk_faults, tmp_path / "home", 1)

    check(found, 1)
    print(found["num_calls"], found["outcomes"])  # noqa: T201  # statistics of the run


STEPS = {
    "record": "service.releases.build.record_release",
    "activate": "service.releases.build.activate_release",
    "write": "service.releases.build.write_release",
    "rows": "service.releases.files._write_rows",
    "index": "service.releases.files.build_index",
    "flush": "embedding.artifact._fsync",
    "copy": "service.releases.files.shutil.copytree",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "killed"])
def test_a_failing_step_changes_nothing(copied_shop, tiny_checkpoint, monkeypatch, step, error):
    shop, (first,) = copied_shop(1)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as context:
        context.setattr(STEPS[step], fail)
        with pytest.raises((ServiceError, OSError, KeyboardInterrupt)):
            build_release(shop, checkpoint=tiny_checkpoint)

    with shop.database.reading() as session:
        assert active_release(session).release_id == first
    for directory in shop.settings.releases_dir.iterdir():
        if directory.is_dir():
            assert verify_release(shop.settings.releases_dir, directory.name)
    second = build_release(shop, checkpoint=tiny_checkpoint)
    with shop.database.reading() as session:
        assert active_release(session).release_id == second.release_id
        assert len(select_releases(session)) == (3 if step in ("record", "activate") else 2)


def test_an_artifact_is_removed_if_its_rename_cannot_be_flushed(tmp_path, monkeypatch):
    flush = artifact._fsync

    def fail_for_parent(path):
        if path == tmp_path:
            raise OSError(5, "Input/output error")
        flush(path)

    def publish():
        with new_artifact(tmp_path / "a", "akin-test/1") as draft:
            (draft.path / "file").write_text("x")

    with monkeypatch.context() as context:
        context.setattr("embedding.artifact._fsync", fail_for_parent)
        with pytest.raises(OSError, match="Input/output error"):
            publish()
    assert list(tmp_path.iterdir()) == []

    publish()
    assert verify_artifact(tmp_path / "a", "akin-test/1") == {}
