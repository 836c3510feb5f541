import errno
import json
import logging
from itertools import pairwise
from pathlib import Path

import pytest

from tests.fakes import Clock
from training.report.progress import SilentProgress
from training.report.progress_file import ProgressFile


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "operation" / "progress.json"


def read(path):
    return json.loads(path.read_text())


def test_a_stage_is_written_from_its_first_image(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)

    file.on_progress("Decoding", 0, 200)

    assert read(path) == {
        "stage": "Decoding", "done": 0, "total": 200, "per_second": None, "seconds_left": None, "loss": None,
        "validation": None,
    }  # fmt: skip


def test_speed_and_time_left_are_measured_per_stage(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.on_progress("Reading", 5000, 5000)
    file.on_progress("Decoding", 10, 210)
    clock.seconds += 4

    file.on_progress("Decoding", 50, 210)

    assert read(path)["per_second"] == pytest.approx(10)
    assert read(path)["seconds_left"] == pytest.approx(16)


def test_speed_follows_a_change(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.started(10_000, 0)
    for step in range(1, 1001):
        clock.seconds += 0.01 if step <= 900 else 1.0
        file.step({"step": step, "loss": 1.0})

    assert read(path)["per_second"] == pytest.approx(1.0, rel=0.05)


def test_the_speed_of_a_resumed_training_excludes_earlier_steps(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.started(1000, 600)
    clock.seconds += 10

    file.step({"step": 620, "loss": 0.5})

    assert read(path) == {
        "stage": "Training", "done": 620, "total": 1000, "per_second": 2.0, "seconds_left": 190.0, "loss": 0.5,
        "validation": None,
    }  # fmt: skip


def test_stages_within_and_after_training_are_ignored(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.started(100, 0)
    for step in (10, 20):
        clock.seconds += 1
        file.on_progress("Embedding", 5, 10)
        file.advanced(step)
    file.finished()
    clock.seconds += 1
    file.on_progress("Embedding", 5, 10)

    assert (read(path)["stage"], read(path)["done"], read(path)["per_second"]) == ("Training", 20, 10.0)


def test_the_metrics_of_the_last_evaluation_are_written(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.started(100, 0)
    clock.seconds += 1

    file.evaluated(
        {"kind": "evaluation", "step": 20, "seconds": 3.0, "recall_at_1": 0.5, "map_at_r": float("nan"),
         "metric": "recall_at_1"}
    )  # fmt: skip

    assert read(path)["validation"] == {"recall_at_1": 0.5}


def test_a_loss_that_is_not_finite_keeps_the_previous_one(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.started(100, 0)
    for step, loss in enumerate([2.0, float("inf"), None]):
        clock.seconds += 1
        file.step({"step": step, "loss": loss})

    assert read(path)["loss"] == 2.0


def test_the_file_is_written_at_most_twice_a_second(path, clock, monkeypatch):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    writes = []
    replace = Path.replace

    def count(aside, to):
        writes.append(clock.seconds)
        return replace(aside, to)

    monkeypatch.setattr(Path, "replace", count)
    file.started(10_000, 0)
    for step in range(1000):
        clock.seconds += 0.01
        file.step({"step": step, "loss": 1.0})

    assert len(writes) <= 21
    assert all(later - earlier >= 0.5 - 1e-9 for earlier, later in pairwise(writes))


def test_the_end_writes_the_latest_values(path, clock):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.started(10, 0)
    file.step({"step": 10, "loss": 0.1})
    assert read(path)["done"] == 0

    file.finished()
    file.finished()

    assert read(path)["done"] == 10


def test_only_the_writer_writes(path, clock):
    file = ProgressFile(path, SilentProgress(), is_writer=lambda: False, clock=clock)

    file.on_progress("Reading", 1, 2)
    file.finished()

    assert not path.exists()


def test_a_full_disk_is_reported_once_and_does_not_end_training(path, clock, monkeypatch, caplog):
    file = ProgressFile(path, SilentProgress(), clock=clock)
    file.on_progress("Reading", 0, 2)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with caplog.at_level(logging.WARNING):
        for done in (1, 2):
            clock.seconds += 1
            file.on_progress("Reading", done, 2)

    assert path.read_bytes() == before
    assert [path.name for path in path.parent.iterdir()] == ["progress.json"]
    assert caplog.text.count("training continues") == 1


def test_every_call_is_forwarded(path, clock):
    told = []

    class Inner:
        def __getattr__(self, name):
            return lambda *arguments: told.append((name, *arguments))

    file = ProgressFile(path, Inner(), clock=clock)
    file.started(10, 2)
    file.advanced(3)
    file.step({"step": 3})
    file.evaluated({"step": 4})
    file.warned("look")
    file.finished()

    assert told == [
        ("started", 10, 2), ("advanced", 3), ("step", {"step": 3}), ("evaluated", {"step": 4}), ("warned", "look"),
        ("finished",),
    ]  # fmt: skip
