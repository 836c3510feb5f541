"""Real training on real and drawn images; minutes each, so run with `make test ARGS='-m slow'`."""

import zipfile

import numpy as np
import pytest

from service.demo.sample.catalogue import write_sample_catalogue
from tests.conftest import REAL_DATA
from training.config import load_preset
from training.running.run import RunOptions, train


def run(data, tmp_path, preset, *overrides):
    config = load_preset(preset, overrides)
    return train(RunOptions(data, tmp_path / "run", config, tmp_path / "cache", device="cpu"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_network_learns_letters_it_has_never_seen(tmp_path):
    archive = REAL_DATA / "omniglot-small1.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not beside the project (../shared/data)")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path)

    outcome = run(tmp_path / "images_background_small1", tmp_path, "tiny")

    before, after = outcome.before["unseen"], outcome.after["unseen"]
    assert after["recall_at_1"] > 0.88  # measured: see docs/study.md
    assert after["recall_at_1"] > before["recall_at_1"] + 0.2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_head_lifts_products_of_the_sample_catalogue_that_it_has_never_seen(tmp_path):
    write_sample_catalogue(tmp_path / "sample")

    outcome = run(tmp_path / "sample", tmp_path, "head")

    assert outcome.after["unseen"]["recall_at_1"] > outcome.before["unseen"]["recall_at_1"] + 0.08
    assert outcome.after["seen"]["recall_at_1"] > outcome.before["seen"]["recall_at_1"] + 0.08


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_photos_find_groceries_that_training_has_never_seen(grocery, tmp_path):
    """The goal of the preset: 2,485 photos among all 81 products, 20 of which nothing was trained on."""
    lines = (grocery / "dataset" / "classes.csv").read_text().splitlines()[1:]
    names = {int(line.split(",")[1]): line.split(",")[0] for line in lines if line.strip()}
    unseen = [names[number] for number in np.random.default_rng(0).permutation(81)[:20].tolist()]
    knobs = ["split.validation_share=0", "split.validation_example_share=0", "evaluation.keep=last"]

    outcome = run(grocery, tmp_path, "head", f"split.unseen_classes={unseen!r}", *knobs)

    assert outcome.before["all"]["recall_at_1"] == pytest.approx(0.275, abs=0.005)
    assert outcome.after["all"]["num_queries"] == 2485
    assert outcome.after["all"]["recall_at_1"] >= 0.62
    assert outcome.after["unseen"]["recall_at_1"] >= 0.45
