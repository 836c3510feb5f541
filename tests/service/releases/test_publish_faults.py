"""A release is published whole or not at all, whatever fails on the way, and wherever the process is killed."""

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
from service.releases.files import read_release_facts
from service.releases.records import active_release, list_releases
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    """Smaller than that of the other tests: what is found does not matter here."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


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
        # Beside a few calls that may fail without harm, such as on the index of SQLite's log.
        assert outcomes["published"] <= sum(outcomes.values()) / 4, mode
    assert found["outcomes"]["killed"]["killed"] == sum(found["outcomes"]["killed"].values())


def test_calls_that_fail_or_are_the_last_leave_the_old_release_serving_and_nothing_half_made(disk_faults, tmp_path):
    """One in 24 of all calls: each write, flush, rename and new folder of Python, Arrow, safetensors, SQLite."""
    check(publish_under_faults(disk_faults, tmp_path / "home", 24), 24)


@pytest.mark.slow
def test_every_single_call_may_fail_or_be_the_last(disk_faults, tmp_path):
    found = publish_under_faults(disk_faults, tmp_path / "home", 1)

    check(found, 1)
    print(found["num_calls"], found["outcomes"])  # noqa: T201  # figures of the run


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
def test_a_step_that_fails_leaves_all_as_it_was(shop, small_checkpoint, monkeypatch, step, error):
    first = build_release(shop, checkpoint=small_checkpoint).release_id

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as context:
        context.setattr(STEPS[step], fail)
        with pytest.raises((ServiceError, OSError, KeyboardInterrupt)):
            build_release(shop, checkpoint=small_checkpoint)

    with shop.database.reading() as session:
        assert active_release(session).release_id == first
    for directory in shop.settings.releases_dir.iterdir():
        if directory.is_dir():
            assert read_release_facts(shop.settings.releases_dir, directory.name)
    second = build_release(shop, checkpoint=small_checkpoint)
    with shop.database.reading() as session:
        assert active_release(session).release_id == second.release_id
        assert len(list_releases(session)) == (3 if step in ("record", "activate") else 2)


def test_a_name_that_cannot_be_made_to_last_is_taken_back(tmp_path, monkeypatch):
    """The rename went well and the flush of the folder after it did not: nothing of the artifact remains."""
    flush = artifact._fsync

    def fail_on_parent(path):
        if path == tmp_path:
            raise OSError(5, "Input/output error")
        flush(path)

    def publish():
        with new_artifact(tmp_path / "a", "akin-test/1") as draft:
            (draft.path / "file").write_text("x")

    with monkeypatch.context() as context:
        context.setattr("embedding.artifact._fsync", fail_on_parent)
        with pytest.raises(OSError, match="Input/output error"):
            publish()
    assert list(tmp_path.iterdir()) == []

    publish()
    assert verify_artifact(tmp_path / "a", "akin-test/1") == {}
