"""Whole runs, on images of coloured shapes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import training.running.run
from embedding.checkpoint import load_embedder, read_checkpoint_facts
from embedding.decoding import decode_image
from embedding.runtimes.options import NetworkOptions
from tests.training.shapes import write_shapes
from training.config import config_from_tables, load_preset
from training.errors import DeviceLost, InvalidConfig, InvalidRun, UnfitData
from training.evaluation.checkpoints import evaluate_checkpoint
from training.report.metrics_log import read_metrics
from training.report.progress import SilentProgress
from training.running.run import RunHooks, RunOptions, train

CONFIG = load_preset(
    "tiny",
    [
        "steps=24",
        "log_every=4",
        "save_every=8",
        "evaluation.every=8",
        "network.embedding_dim=16",
        "network.image_size=32",
        "batches.classes_per_batch=4",
        "batches.images_per_class=3",
        "split.validation_share=0.2",
    ],
)


pytestmark = pytest.mark.usefixtures("_without_drawing")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes") / "shop")


def options(shapes, tmp_path, config=CONFIG, **changed):
    made = RunOptions(shapes, tmp_path / "run", config, tmp_path / "cache", device="cpu", command="akin train …")
    return replace(made, **changed)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """One complete run with its report, which several tests read."""
    return train(options(shapes, tmp_path_factory.mktemp("finished")))


def test_a_run_writes_checkpoint_metrics_curves_and_report(finished):
    names = {path.name for path in finished.out.iterdir()}

    assert {
        "run_card.json", "metrics.jsonl", "evaluation.json", "neighbours.json", "report.html", "checkpoint", "curves",
        "tensorboard",
    } <= names  # fmt: skip
    assert finished.status == "completed"
    assert set(finished.after) == {"all", "unseen"}
    assert finished.after["all"]["num_queries"] == finished.before["all"]["num_queries"] > 0


def test_the_run_card_holds_every_setting_and_the_data(finished):
    card = json.loads((finished.out / "run_card.json").read_text())

    assert card["status"] == "completed"
    assert config_from_tables(card["config"]) == CONFIG
    assert card["versions"]["torch"] == torch.__version__
    assert len(card["snapshot"]["hash"]) == 64
    assert card["split"]["train_classes"] + len(card["split"]["unseen_classes"]) <= 12
    assert card["best"]["step"] in (8, 16, 24)


def test_the_log_has_steps_evaluations_and_projections(finished):
    records = read_metrics(finished.out)

    kinds = {record["kind"] for record in records}
    assert {"step", "evaluation", "projection"} <= kinds
    step = next(record for record in records if record["kind"] == "step")
    for name in (
        "loss", "active_share", "positive_distance_q50", "negative_distance_q50", "embedding_spread", "drift",
        "mined_share", "representative_age", "learning_rate", "gradient_norm",
    ):  # fmt: skip
        assert isinstance(step[name], float), name


def test_the_checkpoint_reproduces_the_metrics_of_the_report(finished, shapes):
    measured = evaluate_checkpoint(
        finished.out / "checkpoint", shapes, overrides=["split.validation_share=0.2"], network=NetworkOptions("cpu")
    )

    assert measured["metrics"]["all"] == pytest.approx(finished.after["all"], abs=1e-6)
    facts = read_checkpoint_facts(finished.out / "checkpoint")
    assert facts.provenance["snapshot_hash"] == measured["snapshot_hash"]
    assert facts.metrics["all"] == pytest.approx(finished.after["all"])


class Begun(SilentProgress):
    """Records that training has begun, to stop a run during training and not before."""

    has_begun = False

    def started(self, total_steps, start_step):
        self.has_begun = True


def stopped_in_training():
    begun = Begun()
    return RunHooks(begun, should_stop=lambda: begun.has_begun)


def test_training_again_gives_the_same_weights(finished, shapes, tmp_path):
    again = train(options(shapes, tmp_path))

    first, second = (read_checkpoint_facts(run.out / "checkpoint").space_id for run in (finished, again))
    assert first == second


def test_an_interrupted_run_resumes_to_the_same_weights(finished, shapes, tmp_path):
    class StopAt(SilentProgress):
        logged = 0

        def step(self, record):
            self.logged = record["step"]

    progress = StopAt()
    hooks = RunHooks(progress, should_stop=lambda: progress.logged >= 12)
    first = train(options(shapes, tmp_path), hooks)
    assert (first.status, first.checkpoint) == ("interrupted", None)
    assert json.loads((first.out / "run_card.json").read_text())["status"] == "interrupted"

    second = train(options(shapes, tmp_path, resume=True))

    assert second.status == "completed"
    facts = [read_checkpoint_facts(run.out / "checkpoint") for run in (finished, second)]
    assert facts[0].space_id == facts[1].space_id
    logs = [
        [{key: value for key, value in record.items() if key != "seconds"} for record in read_metrics(run.out)]
        for run in (finished, second)
    ]
    assert logs[0] == logs[1]


@pytest.mark.long
def test_sigterm_saves_a_state_and_ends_cleanly(shapes, tmp_path):
    program = [sys.executable, "-m", "training", "train", "--data", str(shapes), "--out", str(tmp_path / "run")]
    knobs = ["--preset", "tiny", "--steps", "100000", "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    process = subprocess.Popen([*program, *knobs], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 240
    while not (metrics.exists() and '"step": 25' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)

    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=240)

    assert process.returncode == 0
    assert "continue with --resume" in shown
    assert len(list((tmp_path / "run" / "state").iterdir())) == 1


def test_a_frozen_backbone_trains_its_head_on_features(finished, shapes, tmp_path):
    """The checkpoint embeds images exactly as its features predicted."""
    config = config_from_tables(
        {
            "steps": 20,
            "network": {"train": "head", "embedding_dim": 8, "checkpoint": str(finished.checkpoint)},
            "augmentation": {"views": 2, "catalogue_views": 2},
            "batches": {"classes_per_batch": 4, "images_per_class": 3},
        }
    )
    outcome = train(options(shapes, tmp_path / "second", config))

    assert outcome.checkpoint is not None
    measured = evaluate_checkpoint(outcome.checkpoint, shapes, network=NetworkOptions("cpu"))
    assert measured["metrics"]["all"]["map_at_r"] == pytest.approx(outcome.after["all"]["map_at_r"], abs=1e-6)
    assert list((tmp_path / "second" / "cache" / "features").glob("*/part-*.safetensors"))


def test_examples_are_searched_among_catalogue_images(tmp_path):
    shop = write_shapes(tmp_path / "shop", with_examples=True)
    config = replace(CONFIG, steps=8, batches=replace(CONFIG.batches, representatives="catalogue"))

    outcome = train(options(shop, tmp_path, config))

    assert set(outcome.after) == {"all", "seen", "unseen"}
    assert "mean_of_parts_recall_at_1" in outcome.after["all"]
    protocol = json.loads((outcome.out / "evaluation.json").read_text())["protocol"]
    assert "among 12 catalogue images" in protocol


def test_an_unreadable_image_is_named_and_excluded(tmp_path):
    shop = write_shapes(tmp_path / "shop")
    (shop / "red-disc" / "0.png").write_bytes(b"no image")

    outcome = train(options(shop, tmp_path, replace(CONFIG, steps=8)))

    assert any("red-disc/0.png" in warning for warning in outcome.warnings)
    assert outcome.checkpoint is not None


@pytest.mark.long
def test_a_trained_network_tells_shapes_apart(shapes, tmp_path):
    """Retrieval with the finished checkpoint, embedded as for requests."""
    # The last weights: the few validation images are too coarse to choose between steps.
    evaluation = replace(CONFIG.evaluation, keep="last")
    config = replace(CONFIG, steps=300, split=replace(CONFIG.split, test="none"), evaluation=evaluation)

    outcome = train(options(shapes, tmp_path, config))
    assert outcome.checkpoint is not None
    embedder = load_embedder(outcome.checkpoint, NetworkOptions("cpu"))
    folders = sorted(path for path in shapes.iterdir() if path.is_dir())
    images = [decode_image((folder / f"{number}.png").read_bytes()) for folder in folders for number in range(4)]

    embeddings = embedder.embed(images)

    scores = embeddings @ embeddings.T - 2 * np.eye(len(images))
    classes = np.arange(len(images)) // 4
    # 0.94 to 1.00 over seeds 0, 1 and 2; chance is 0.06.
    assert (classes[scores.argmax(axis=1)] == classes).mean() > 0.7


def test_a_folder_with_a_run_is_never_overwritten(finished, shapes):
    with pytest.raises(InvalidRun, match="--resume"):
        train(RunOptions(shapes, finished.out, CONFIG, finished.out.parent / "cache", device="cpu"))


def test_a_complete_run_cannot_be_resumed(finished, shapes):
    with pytest.raises(InvalidRun, match="complete"):
        train(RunOptions(shapes, finished.out, CONFIG, finished.out.parent / "cache", device="cpu", resume=True))


@pytest.mark.parametrize(("change", "message"), [("knobs", "steps: 24, now 28"), ("images", "other images")])
def test_a_run_resumes_only_with_its_own_settings_and_images(shapes, tmp_path, change, message):
    train(options(shapes, tmp_path), stopped_in_training())
    config = replace(CONFIG, steps=28) if change == "knobs" else CONFIG
    data = shapes if change == "knobs" else write_shapes(tmp_path / "other", per_class=6)

    with pytest.raises(InvalidRun, match=message):
        train(options(data, tmp_path, config, resume=True))


def test_a_folder_that_is_not_empty_is_refused(shapes, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")

    with pytest.raises(InvalidRun, match="not empty"):
        train(options(shapes, tmp_path))


def test_training_needs_two_classes_with_two_images(tmp_path):
    shop = write_shapes(tmp_path / "shop", per_class=1)

    with pytest.raises(UnfitData):
        train(options(shop, tmp_path))


def test_too_few_images_for_the_head_name_the_setting(shapes, tmp_path):
    config = replace(CONFIG, network=replace(CONFIG.network, embedding_dim=128, head_start="principal_components"))

    with pytest.raises(InvalidConfig, match=r"lower network\.embedding_dim"):
        train(options(shapes, tmp_path, config))


def test_a_frozen_random_backbone_is_refused(shapes, tmp_path):
    config = replace(CONFIG, network=replace(CONFIG.network, train="head"))

    with pytest.raises(InvalidConfig, match="leaves untrained"):
        train(options(shapes, tmp_path, config))


def test_a_full_disk_keeps_the_last_state(shapes, tmp_path, monkeypatch):
    """The second state cannot be written: the run fails with the reason, and later resumes from the first state."""
    real = os.fsync
    states = []

    def fail_on_second_state(descriptor):
        if "state" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            states.append(descriptor)
            if len(states) == 2:
                raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", fail_on_second_state)
    with pytest.raises(OSError, match=r"No space left.*free some disk.*--resume"):
        train(options(shapes, tmp_path))
    monkeypatch.undo()

    assert json.loads((tmp_path / "run" / "run_card.json").read_text())["status"] == "failed"
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-000000008.pt"]
    assert train(options(shapes, tmp_path, resume=True)).status == "completed"
    assert "error" not in json.loads((tmp_path / "run" / "run_card.json").read_text())


def test_two_processes_never_train_into_one_folder(shapes, tmp_path):
    tried: list[bool] = []

    def try_another():
        if tried:
            return False
        tried.append(True)
        with pytest.raises(InvalidRun, match="another process trains"):
            train(options(shapes, tmp_path, resume=True))
        return True

    train(options(shapes, tmp_path), RunHooks(should_stop=try_another))


def test_a_request_to_stop_before_training_ends_the_run_at_once(shapes, tmp_path):
    outcome = train(options(shapes, tmp_path), RunHooks(should_stop=lambda: True))

    assert (outcome.status, outcome.steps) == ("interrupted", 0)
    assert train(options(shapes, tmp_path, replace(CONFIG, steps=8))).status == "completed"


def test_recall_at_1_is_always_measured(shapes, tmp_path):
    config = replace(CONFIG, steps=8, evaluation=replace(CONFIG.evaluation, ks=(2, 4)))

    outcome = train(options(shapes, tmp_path, config))

    assert {"recall_at_1", "recall_at_2", "recall_at_4"} <= outcome.after["all"].keys()


@pytest.mark.parametrize("place", ["write_neighbours", "write_report", "save_checkpoint"])
def test_a_run_killed_while_writing_results_resumes_to_the_same_checkpoint(
    finished, shapes, tmp_path, monkeypatch, place
):
    real = getattr(training.running.run, place)

    def cut_off(*arguments, **named):
        if place == "save_checkpoint":
            real(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.running.run, place, cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(options(shapes, tmp_path))
    monkeypatch.undo()
    if place == "write_report":
        # Checkpoint and results are complete; the page can be written again.
        assert (tmp_path / "run" / "checkpoint" / "model.json").exists()
        return

    outcome = train(options(shapes, tmp_path, resume=True))

    assert outcome.checkpoint is not None
    assert finished.checkpoint is not None
    facts = [read_checkpoint_facts(checkpoint) for checkpoint in (finished.checkpoint, outcome.checkpoint)]
    assert facts[0].space_id == facts[1].space_id


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), RuntimeError("cuDNN error: X")],
)
def test_a_failed_device_is_named_with_the_remedy(shapes, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("training.running.run._train", fail)
    with pytest.raises(DeviceLost, match=r"the device cpu failed: .*--resume"):
        train(options(shapes, tmp_path))


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("projections.until=metric", "needs a validation part"),
        ("projections.anchor=best", "needs a validation part"),
        ("evaluation.patience=3", "needs a validation part"),
        ("projections.choose_final_relaxation=true", "batch-norm statistics|needs a validation part"),
        ("projections.final_relaxation=0.5", "batch-norm statistics"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(shapes, tmp_path, knob, message):
    tables = {**CONFIG.to_json(), "split": {"validation_share": 0.0, "validation_example_share": 0.0}}

    with pytest.raises(InvalidConfig, match=message):
        train(options(shapes, tmp_path, config_from_tables(tables, [knob])))


def test_a_metric_that_cannot_be_measured_is_refused_before_training(shapes, tmp_path):
    config = replace(CONFIG, evaluation=replace(CONFIG.evaluation, metric="seen_recall_at_1"))

    with pytest.raises(InvalidConfig, match="needs photos of classes that are trained on"):
        train(options(shapes, tmp_path, config))
