"""The gate between models that were really trained: on true labels, on shuffled ones, and not at all."""

import json

import numpy as np
import pytest

from embedding.checkpoint import load_embedder
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from tests.training.shapes import write_shapes
from training.config import load_preset
from training.data.snapshot import open_training_data
from training.data.splits import split_snapshot
from training.evaluation.evaluation_set import evaluation_set_of, measure
from training.gate import GatePolicy, Measured, decide
from training.run import RunOptions, train
from training.starting_model import create_starting_model

CONFIG = load_preset(
    "tiny",
    [
        "steps=150",
        "log_every=50",
        "evaluation.every=1000",
        "network.embedding_dim=32",
        "network.image_size=48",
        "batches.classes_per_batch=6",
        "split.unseen_share=0.25",
        "split.validation_share=0",
        "split.validation_example_share=0",
    ],
)


class Bench:
    """One shop, and the models that are measured on its evaluation set."""

    def __init__(self, folder):
        self._folder = folder
        self.snapshot = open_training_data(write_shapes(folder / "shop", per_class=12, with_examples=True))
        self.split = split_snapshot(self.snapshot, CONFIG.split)
        self.evaluation_set = evaluation_set_of(self.snapshot, self.split)

    def train(self, name, labels):
        """Train with these labels, and measure with the true ones."""
        rows = [
            {"image": str(image.path), "label": label, "role": image.role}
            for image, label in zip(self.snapshot.images, labels, strict=True)
        ]
        data = self._folder / f"{name}.ndjson"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        outcome = train(RunOptions(data, self._folder / name, CONFIG, self._folder / "cache", device="cpu"))
        assert outcome.checkpoint is not None
        return self.measure(load_embedder(outcome.checkpoint, device="cpu"))

    def measure(self, embedder):
        paths = {image.sha256: image.path for image in self.snapshot.images}

        def embed(digests):
            return embedder.embed([decode_image(paths[digest].read_bytes()) for digest in digests])

        queries, gallery = embed(self.evaluation_set.query_sha256), embed(self.evaluation_set.gallery_sha256)
        return Measured.of(
            self.evaluation_set, measure(self.evaluation_set, queries, gallery), space_id=embedder.space_id
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def untrained(bench):
    start = create_starting_model(CONFIG.network, CONFIG.seed)
    return bench.measure(Embedder(start.model, start.preprocessing, device="cpu"))


@pytest.fixture(scope="module")
def clean(bench):
    return bench.train("clean", bench.snapshot.labels)


@pytest.fixture(scope="module")
def shuffled(bench):
    """What is held out keeps its labels; whatever trains has another's."""
    labels = np.array(bench.snapshot.labels)
    labels[bench.split.train] = np.random.default_rng(0).permutation(labels[bench.split.train])
    return bench.train("shuffled", labels.tolist())


def failing(verdict):
    return {reason.code for reason in verdict.reasons if not reason.is_met}


def test_training_on_true_labels_is_promoted_over_none(clean, untrained):
    verdict = decide(clean, untrained, GatePolicy())

    assert verdict.promote
    assert set(verdict.parts) == {"seen", "unseen"}
    assert verdict.primary is not None
    assert verdict.primary.low > 0.05


def test_training_on_shuffled_labels_is_rejected(shuffled, clean):
    verdict = decide(shuffled, clean, GatePolicy())

    assert not verdict.promote
    assert {"not_better", "part_worse", "metric_drop"} <= failing(verdict)


def test_training_on_shuffled_labels_is_no_better_than_none(shuffled, untrained):
    assert "not_better" in failing(decide(shuffled, untrained, GatePolicy()))
