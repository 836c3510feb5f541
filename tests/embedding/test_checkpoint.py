import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedding.artifact import new_artifact
from embedding.backbones import SMALL_BACKBONE
from embedding.checkpoint import KIND, MODEL_FILE, load_embedder, load_model, read_checkpoint_facts, save_checkpoint
from embedding.errors import InvalidArtifact, InvalidCheckpoint
from embedding.model import Architecture, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.options import NetworkOptions
from tests.images import scene

# A small network: what is tested here does not depend on the backbone.
ARCHITECTURE = Architecture(SMALL_BACKBONE, pooling="gem", head="linear", embedding_dim=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model, _ = create_model(ARCHITECTURE, pretrained=False)
    directory = tmp_path_factory.mktemp("checkpoint") / "small"
    save_checkpoint(
        directory, model, Preprocessing(image_size=32), metrics={"recall_at_1": 0.5}, provenance={"weights": "random"}
    )
    return directory


def test_embeddings_survive_a_round_trip(tmp_path):
    torch.manual_seed(1)
    model, preprocessing = create_model(ARCHITECTURE, pretrained=False)
    saved = save_checkpoint(tmp_path / "c", model, preprocessing)

    embedder = load_embedder(tmp_path / "c", NetworkOptions("cpu"))

    with torch.inference_mode():
        pixels = torch.from_numpy(preprocessing.to_pixels(scene()).copy())[None]
        expected = model(preprocessing.normalise(pixels)).numpy()
    assert embedder.space_id == saved.space_id
    np.testing.assert_allclose(embedder.embed([scene()]), expected, atol=1e-5)


def test_facts_are_read_without_building_the_model(checkpoint):
    facts = read_checkpoint_facts(checkpoint)

    assert facts.architecture == ARCHITECTURE
    assert facts.metrics == {"recall_at_1": 0.5}
    assert facts.provenance["weights"] == "random"
    assert facts.provenance["torch"] == torch.__version__


def test_a_checkpoint_contains_no_pickle(checkpoint):
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        "golden.safetensors",
        "model.json",
        "weights.safetensors",
    ]


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "model.json"])
def test_a_flipped_byte_is_found(checkpoint, tmp_path, name):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)

    with pytest.raises(InvalidArtifact):
        load_embedder(copy, NetworkOptions("cpu"))


def resealed(checkpoint, directory, change):
    """Copy a checkpoint with changed content and valid checksums."""
    facts = json.loads((checkpoint / MODEL_FILE).read_text())["facts"]
    weights, golden = load_file(checkpoint / "weights.safetensors"), load_file(checkpoint / "golden.safetensors")
    change(facts, weights, golden)
    with new_artifact(directory, KIND, facts, manifest_name=MODEL_FILE) as draft:
        save_file(weights, draft.path / "weights.safetensors")
        save_file(golden, draft.path / "golden.safetensors")
    return directory


def test_golden_samples_that_are_not_reproduced_are_refused(checkpoint, tmp_path):
    def change(facts, weights, golden):
        golden["embeddings"] = -golden["embeddings"]

    with pytest.raises(InvalidCheckpoint, match="does not reproduce its golden samples"):
        load_embedder(resealed(checkpoint, tmp_path / "c", change), NetworkOptions("cpu"))


def test_golden_samples_with_nan_are_refused(checkpoint, tmp_path):
    def change(facts, weights, golden):
        golden["embeddings"][0, 0] = float("nan")

    with pytest.raises(InvalidCheckpoint, match="golden"):
        load_embedder(resealed(checkpoint, tmp_path / "c", change), NetworkOptions("cpu"))


def test_weights_of_another_space_are_refused(checkpoint, tmp_path):
    def change(facts, weights, golden):
        weights["head.bias"] += 0.1

    with pytest.raises(InvalidCheckpoint, match="space id"):
        load_embedder(resealed(checkpoint, tmp_path / "c", change), NetworkOptions("cpu"))


def test_weights_of_another_architecture_are_refused(checkpoint, tmp_path):
    def change(facts, weights, golden):
        facts["architecture"]["embedding_dim"] = 9

    with pytest.raises(InvalidCheckpoint, match="does not fit the architecture"):
        load_model(resealed(checkpoint, tmp_path / "c", change))


@pytest.mark.parametrize("name", ["architecture", "preprocessing", "space_id"])
def test_missing_facts_are_named(checkpoint, tmp_path, name):
    def change(facts, weights, golden):
        del facts[name]

    with pytest.raises(InvalidCheckpoint, match=name):
        read_checkpoint_facts(resealed(checkpoint, tmp_path / "c", change))


def test_saving_neither_moves_nor_changes_the_model_in_training(tmp_path):
    model, preprocessing = create_model(ARCHITECTURE, pretrained=False)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    save_checkpoint(tmp_path / "c", model, preprocessing)

    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
