"""The logic of `make gpu-check`, on the CPU with a tiny network and a few drawn images."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.gpu_check import embedding_speed, fine_tuning, step_time
from benchmarks.gpu_check.__main__ import ROOT, main, run_part, what_is_missing
from benchmarks.gpu_check.gpu_tests import Outcome, files_with_gpu_tests, read_outcomes, rows_of
from benchmarks.gpu_check.images import choose_images, draw_images
from benchmarks.gpu_check.report import format_table, has_failed, read_json, write_json
from benchmarks.gpu_check.settings import Row, Settings
from benchmarks.gpu_check.weights import find_weights
from embedding.efficientnet_lite import EfficientNetLite0
from embedding.errors import MissingWeights
from training.errors import InvalidDataset


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    return Settings(
        work=tmp_path / "work", device="cpu", network="conv4", image_size=16, classes_per_batch=2, images_per_class=2,
        seeds=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("drawn"), num_classes=8, images_per_class=5, size=16)


def values_of(rows):
    return {row.measure: row.value for row in rows}


def test_a_training_step_is_compared_with_bare_passes(tiny):
    values = values_of(step_time.measure(tiny, deadline=time.monotonic()))

    for name in ("bare forward and backward", "plain", "projections + mining", "plain / bare"):
        assert isinstance(values[name], float)
        assert values[name] > 0
    assert values["network and batch"] == "conv4 at 16 pixels, 4 images, float32, 1 rounds"


def test_embedding_is_compared_with_the_bare_network(tiny):
    values = values_of(embedding_speed.measure(tiny, deadline=time.monotonic()))

    ratio = values["float32, embedding / bare"]
    assert isinstance(ratio, float)
    assert ratio > 0


def test_fine_tuning_measures_both_methods_on_unseen_classes(tiny, drawn):
    settings = dataclasses.replace(tiny, data=drawn, steps=2)

    values = values_of(fine_tuning.measure(settings, deadline=time.monotonic() + 300))

    assert values["setting"] == "16 pixels, batches of 2 × 2, 2 steps, 1 seeds"
    assert "3 classes unseen" in str(values["images"])
    assert values["weights"] == "random conv4"
    for metric in ("recall@1", "MAP@R"):
        for name in ("before", "plain", "projections + mining"):
            share = values[f"{metric} of unseen classes, {name}"]
            assert isinstance(share, float)
            assert 0 <= share <= 1
    assert {"training, plain", "whole run, projections + mining"} <= values.keys()


def test_fine_tuning_without_time_says_so(tiny, drawn):
    settings = dataclasses.replace(tiny, data=drawn)

    values = values_of(fine_tuning.measure(settings, deadline=time.monotonic()))

    assert values["steps"] == "none: the time ran out during a first short run"


def test_a_run_that_the_deadline_interrupts_is_not_counted(tiny, drawn):
    settings = dataclasses.replace(tiny, data=drawn, steps=2)

    values = values_of(fine_tuning.measure(settings, deadline=time.monotonic()))

    assert values["setting"] == "16 pixels, batches of 2 × 2, 2 steps, 0 of 1 seeds in time"
    assert not any("recall" in measure for measure in values)


def test_synthetic_images_are_named_as_such(tiny):
    values = values_of(fine_tuning.measure(tiny, deadline=time.monotonic()))

    assert str(values["images"]).startswith("synthetic, drawn for this check; ")


def test_whole_classes_are_held_out_and_the_number_of_images_is_limited(drawn, tmp_path):
    manifest, description = choose_images(drawn, tmp_path, max_images=31)

    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = {part: {row["label"] for row in rows if row["split"] == part} for part in ("train", "test")}
    assert len(rows) == 35
    assert len(classes["train"] | classes["test"]) == 7
    assert not classes["train"] & classes["test"]
    assert description == f"{drawn.name}: 35 images of 7 classes (of 40 of 8), 2 classes unseen"


def test_a_folder_of_few_classes_is_refused(tmp_path):
    draw_images(tmp_path / "few", num_classes=3, images_per_class=4, size=16)

    with pytest.raises(InvalidDataset, match=r"3 classes with 4 or more images; give a folder with at least 6"):
        choose_images(tmp_path / "few", tmp_path, max_images=100)


def test_weights_come_from_the_file_that_was_named(tiny, tmp_path):
    torch.manual_seed(5)
    weights = {**EfficientNetLite0().state_dict(), "_fc.weight": torch.zeros(2, 2)}
    save_file(weights, tmp_path / "weights.safetensors")
    settings = dataclasses.replace(tiny, network="efficientnet_lite0", weights=tmp_path / "weights.safetensors")

    found = find_weights(settings)

    assert found.is_pretrained
    assert found.network == {"checkpoint": str(tiny.work / "weights")}
    assert found.description == "efficientnet_lite0 from weights.safetensors"


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_of_other_weights_is_refused(tiny, tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")

    with pytest.raises(MissingWeights, match=f"{name} does not contain the weights of efficientnet_lite0"):
        find_weights(dataclasses.replace(tiny, weights=tmp_path / name))


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="test_good"/>
<testcase classname="tests.a" name="test_bad"><failure message="assert 1 == 2&#10;more">trace</failure></testcase>
<testcase classname="tests.a" name="test_later"><skipped message="faiss-gpu is not installed">x</skipped></testcase>
<testcase classname="" name="tests.b"><error message="collection failure">import faiss
E   ModuleNotFoundError: No module named 'faiss.swigfaiss'</error></testcase>
<testcase classname="" name="tests.c"><error message="collection failure">import index.gone
E   ModuleNotFoundError: No module named 'index.gone'</error></testcase></testsuite></testsuites>"""


def test_a_missing_library_skips_a_test_and_a_missing_module_of_ours_fails_it(tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)

    outcomes = read_outcomes(tmp_path / "report.xml")

    assert outcomes == [
        Outcome("tests.a.test_good", "passed"),
        Outcome("tests.a.test_bad", "failed", "assert 1 == 2"),
        Outcome("tests.a.test_later", "skipped", "faiss-gpu is not installed"),
        Outcome("tests.b", "skipped", "faiss is not installed"),
        Outcome("tests.c", "failed", "collection failure"),
    ]
    rows = list(rows_of(outcomes))
    assert [(row.measure, row.value) for row in rows[:3]] == [("passed", 1), ("failed", 2), ("skipped", 2)]
    assert {row.measure: row.value for row in rows[3:]}["skipped: tests.b"] == "faiss is not installed"
    assert has_failed(rows)
    assert not has_failed(list(rows_of(outcomes[:1])))


def test_only_files_with_gpu_tests_are_collected():
    names = {path.name for path in files_with_gpu_tests(ROOT / "tests")}

    assert {"test_embedder.py", "test_mining.py"} <= names
    assert "test_checkpoint.py" not in names


def test_rows_become_one_table_and_a_json_file(tmp_path):
    rows = [Row("step", "plain", 12.345, "ms"), Row("step", "ratio", 1.0), Row("machine", "device", "H100")]

    write_json(tmp_path / "rows.json", rows)

    assert read_json(tmp_path / "rows.json") == rows
    assert json.loads((tmp_path / "rows.json").read_text())[0] == {
        "part": "step", "measure": "plain", "value": 12.345, "unit": "ms",
    }  # fmt: skip
    assert format_table(rows).splitlines() == [
        "part     measure  value",
        "-------  -------  -----",
        "step     plain    12.3 ms",
        "         ratio    1.000",
        "machine  device   H100",
    ]


def test_without_a_gpu_the_message_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    status = main([])

    assert status == 2
    message = capsys.readouterr().err
    assert "needs an NVIDIA GPU" in message
    assert "ARGS='--device cpu'" in message
    assert what_is_missing("cpu") == ""
    assert what_is_missing("gpu").startswith("unknown device 'gpu'")


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("scipy", "PIL") else object())

    assert what_is_missing("cpu").startswith("gpu-check needs PIL, scipy, which ")


@pytest.mark.long
def test_a_part_that_does_not_end_is_killed_and_reported(tmp_path, monkeypatch):
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nsleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))

    rows = run_part([], "embedding", tmp_path, seconds=0.5)

    assert rows == [Row("embedding", "failed", "did not finish within 0 s")]
    assert has_failed(rows)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_command_prints_one_table_and_writes_a_json_file(tmp_path):
    """Two of the parts; the others are called above."""
    command = [
        *(sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--network", "conv4", "--image-size", "16"),
        *("--parts", "gpu-tests", "embedding", "--minutes", "14", "--json", str(tmp_path / "rows.json")),
    ]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("measure") == 1
    rows = read_json(tmp_path / "rows.json")
    assert {row.part for row in rows} == {"machine", "gpu-tests", "embedding"}
    assert any(row.measure == "not run" and "tests collected" in str(row.value) for row in rows)
