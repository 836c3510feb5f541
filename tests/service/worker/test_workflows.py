"""Whole retrains, undisturbed or killed anywhere, on both databases: the outcome is always the same."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from embedding.artifact import sha256_of_file
from service.operations.cancelling import request_cancel
from service.operations.folder import RUN
from service.releases.records import active_release
from tests.service.conftest import wait_for
from tests.service.fixtures.learning import Works, copied_shop, stop_all

STEPS = (
    "labels", "snapshot", "split", "train", "evaluate", "decide", "plan", "embed-1", "build", "catch-up", "activate",
    "converge", "tidy",
)  # fmt: skip
# Where a worker may die: before a step, between its end and the engine's record of it, and after that.
POINTS = ("begin", *(f"{when} {step}" for step in STEPS for when in ("before", "within", "after")))


pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def outcome(works: Works, operation_id: str) -> dict[str, Any]:
    """Return what must not depend on interruptions."""
    operation = works.operation(operation_id)
    result: dict[str, Any] = operation.result
    assert operation.state == "succeeded", (operation.error, works.last_log()[-3000:])
    with works.open() as installation, installation.database.reading() as session:
        active = active_release(session)
    directory = works.settings.releases_dir / result["release"]["release_id"]
    assert active.release_id == directory.name
    return {
        "snapshot": result["snapshot"],
        "evaluation_set": result["evaluation_set"],
        "candidate": (result["candidate"]["space_id"], result["candidate"]["metrics"]),
        "active": (result["active"]["space_id"], result["active"]["metrics"]),
        "reasons": [reason["code"] for reason in result["verdict"]["reasons"]],
        "weights": sha256_of_file(directory / "checkpoint" / "weights.safetensors"),
        "rows": sha256_of_file(directory / "rows.arrow"),
        "embeddings": sha256_of_file(directory / "index" / "embeddings.npy"),
        "activations": active.version,
        "releases": sorted(path.name[:4] for path in works.settings.releases_dir.iterdir() if path.is_dir()),
        "steps": [step["name"] for step in operation.steps],
        "is_active": result["is_active"],
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, learning_shop) -> dict[str, Any]:
    works = copied_shop(tmp_path_factory.mktemp("undisturbed"), learning_shop)
    operation_id = works.ask()
    assert works.work() == 0
    return outcome(works, operation_id)


def test_a_retrain_leads_from_labels_to_a_better_release(undisturbed):
    assert undisturbed["steps"] == list(STEPS)
    assert undisturbed["activations"] == 2
    (_, after), (_, before) = undisturbed["candidate"], undisturbed["active"]
    assert after["mean_of_parts"]["recall_at_1"] > before["mean_of_parts"]["recall_at_1"]


def test_workers_that_die_after_each_step_change_nothing(works_on_both: Works, undisturbed):
    """Each dies between a step's end and the engine's record of it, so that each step is performed twice."""
    operation_id = works_on_both.ask()
    # Each death costs the start of a process; the slow sweep below has all points.
    steps: tuple[str, ...] = ("snapshot", "train", "evaluate", "decide", "embed-1", "build", "activate", "converge")
    if works_on_both.database_url:
        steps = ("snapshot", "train", "evaluate", "build", "activate")

    for step in steps:
        assert works_on_both.work("--kill-at", f"within {step}") == -signal.SIGKILL, works_on_both.last_log()[-3000:]
    assert works_on_both.work() == 0

    assert outcome(works_on_both, operation_id) == undisturbed


def test_workers_that_die_while_training_or_embedding_change_nothing(works: Works, undisturbed):
    operation_id = works.ask()

    for step, seconds in (("train", 3.0), ("train", 4.5), ("train", 6.0), ("evaluate", 0.3), ("embed-1", 0.02)):
        works.work("--kill-in", step, "--kill-after", str(seconds))
    assert works.work() == 0

    assert outcome(works, operation_id) == undisturbed


@pytest.mark.parametrize("is_keeper_killed", [False, True])
def test_a_training_process_that_is_killed_is_restarted(works: Works, undisturbed, is_keeper_killed):
    operation_id = works.ask()
    worker = works.start_worker()
    run = works.settings.operations_dir / operation_id / RUN
    wait_for(lambda: (run / "run_card.json").exists(), 300)
    keeper = int(_pgrep("-f", f"training.processes.keeper.*{operation_id}")[0])

    os.kill(keeper if is_keeper_killed else int(_pgrep("-P", str(keeper))[0]), signal.SIGKILL)
    assert worker.wait(600) == 0

    assert "training_killed" in works.last_log()
    assert outcome(works, operation_id) == undisturbed


def test_sigterm_saves_the_state_and_the_next_worker_continues(works: Works, undisturbed):
    operation_id = works.ask()
    worker = works.start_worker("--stay")
    run = works.settings.operations_dir / operation_id / RUN
    wait_for(lambda: (run / "run_card.json").exists(), 300)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(600) == 0
    assert works.operation(operation_id).state == "running"
    assert not _processes_of(operation_id)
    assert works.work() == 0
    assert outcome(works, operation_id) == undisturbed


def test_cancel_stops_training_and_leaves_no_process(works: Works):
    operation_id = works.ask(overrides=["network.image_size=112", "augmentation.views=1", "steps=100000"])
    works.start_worker("--stay")
    run = works.settings.operations_dir / operation_id / RUN
    wait_for(lambda: (run / "run_card.json").exists(), 300)

    with works.open() as installation:
        request_cancel(installation.database, operation_id)
    wait_for(lambda: works.operation(operation_id).state == "cancelled", 120)

    assert not _processes_of(operation_id)
    assert (works.operation(operation_id).error or {})["code"] == "cancelled"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_each_kill_point_by_itself(tmp_path: Path, learning_shop: Path, undisturbed):
    deaths = [("--kill-at", point) for point in POINTS]

    assert _num_died(tmp_path, learning_shop, undisturbed, deaths) == len(POINTS) == 40


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_moments_in_training_evaluation_and_what_follows(tmp_path: Path, learning_shop: Path, undisturbed):
    deaths = [
        ("--kill-in", step, "--kill-after", str(round(0.4 * number, 2)))
        for step in ("train", "evaluate")
        for number in range(10)
    ]

    # On a fast machine, a worker may have ended before the last moments.
    assert _num_died(tmp_path, learning_shop, undisturbed, deaths) >= 15


def _num_died(root: Path, learning_shop: Path, undisturbed: dict[str, Any], deaths: Sequence[tuple[str, ...]]) -> int:
    """Let a worker die in each of the ways, in an operation of its own each, and another continue; count the deaths."""
    num_died = 0
    for number, death in enumerate(deaths):
        works = copied_shop(root / str(number), learning_shop)
        operation_id = works.ask()
        try:
            if works.work(*death) != 0:
                num_died += 1
                assert works.work() == 0, works.last_log()[-3000:]
            assert outcome(works, operation_id) == undisturbed, death
        finally:
            stop_all(works)
        shutil.rmtree(works.home)
    return num_died


def _processes_of(operation_id: str) -> list[str]:
    return _pgrep("-f", operation_id)


def _pgrep(*arguments: str) -> list[str]:
    """Return the ids of processes."""
    found = subprocess.run(["pgrep", *arguments], capture_output=True, text=True, check=False)
    return found.stdout.split()
