import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model, with_linear_head, without_head
from embedding.runtimes.options import NetworkOptions
from tests.training.shapes import write_shapes
from training.config import AugmentationConfig
from training.data.feature_rows import StoredRows
from training.data.features import FeatureStore
from training.data.snapshot import take_snapshot
from training.datasets.reading import read_dataset
from training.errors import InvalidDataset
from training.inputs import FeatureInputs

CPU = torch.device("cpu")
KNOBS = AugmentationConfig(views=2, catalogue_views=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    shop = write_shapes(tmp_path_factory.mktemp("features") / "shop", per_class=2, with_examples=True)
    return take_snapshot(read_dataset(shop)).images


@pytest.fixture(scope="module")
def headed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, preprocessing = create_model(Architecture("conv4"), pretrained=False)
        return with_linear_head(model, 8).eval(), preprocessing


def store(directory, headed, knobs=KNOBS):
    model, preprocessing = headed
    return FeatureStore(directory, model, preprocessing, knobs, CPU)


def everything(images):
    return np.ones(len(images), bool)


def test_view_0_equals_the_backbone_features_of_the_image(images, headed, tmp_path):
    features = store(tmp_path, headed).read_or_compute(images, everything(images))

    model, preprocessing = headed
    decoded = [decode_image(image.path.read_bytes()) for image in images]
    expected = Embedder(without_head(model), preprocessing, NetworkOptions("cpu")).embed(decoded)
    torch.testing.assert_close(features.plain(np.arange(len(images))), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_the_head_on_features_equals_the_whole_model(images, headed, tmp_path):
    features = store(tmp_path, headed).read_or_compute(images, everything(images))

    model, preprocessing = headed
    decoded = [decode_image(image.path.read_bytes()) for image in images]
    whole = Embedder(model, preprocessing, NetworkOptions("cpu")).embed(decoded)
    with torch.no_grad():
        parts = torch.nn.functional.normalize(model.head(features.plain(np.arange(len(images)))), dim=1)
    torch.testing.assert_close(parts, torch.from_numpy(whole), atol=1e-5, rtol=0)


def test_views_differ_from_the_image_and_from_each_other(images, headed, tmp_path):
    features = store(tmp_path, headed).read_or_compute(images, everything(images))

    views = features.rows_RC[: features.num_views[0]]
    assert (views @ views.T - torch.eye(len(views))).max() < 1 - 1e-4
    torch.testing.assert_close(views.norm(dim=1), torch.ones(len(views)))


def test_each_role_has_its_number_of_views_and_held_out_images_have_one(images, headed, tmp_path):
    is_varied = np.array([image.label.startswith("red") for image in images])

    features = store(tmp_path, headed).read_or_compute(images, is_varied)

    for image, count, varied in zip(images, features.num_views, is_varied, strict=True):
        assert count == (1 if not varied else 4 if image.role == "catalogue" else 3)


def test_stored_features_are_not_computed_again(images, headed, tmp_path):
    first = store(tmp_path, headed).read_or_compute(images, everything(images))
    calls = []

    second = store(tmp_path, headed).read_or_compute(images, everything(images), lambda *done: calls.append(done))

    assert calls == []
    assert torch.equal(first.rows_RC, second.rows_RC)


def test_only_new_images_are_computed(images, headed, tmp_path):
    store(tmp_path, headed).read_or_compute(images[:10], everything(images[:10]))
    calls = []

    later = store(tmp_path, headed).read_or_compute(images, everything(images), lambda *done: calls.append(done))

    assert calls[-1] == (len(images) - 10, len(images) - 10)
    whole = store(tmp_path / "other", headed).read_or_compute(images, everything(images))
    torch.testing.assert_close(later.rows_RC, whole.rows_RC, atol=1e-6, rtol=0)


def test_each_augmentation_and_backbone_has_its_own_folder(images, headed, tmp_path):
    torch.manual_seed(1)
    other, preprocessing = create_model(Architecture("conv4"), pretrained=False)
    folders = {
        store(tmp_path, headed).directory,
        store(tmp_path, headed, AugmentationConfig(flip=0.0)).directory,
        store(tmp_path, (with_linear_head(other, 8), preprocessing)).directory,
    }

    assert len(folders) == 3
    assert store(tmp_path, headed, AugmentationConfig(views=9)).directory in folders


def test_a_damaged_part_is_computed_again_with_a_warning(images, headed, tmp_path, caplog):
    made = store(tmp_path, headed)
    first = made.read_or_compute(images, everything(images))
    (part,) = made.directory.iterdir()
    part.write_bytes(b"damaged")

    with caplog.at_level(logging.WARNING):
        second = made.read_or_compute(images, everything(images))

    assert "damaged" in caplog.text
    assert torch.equal(first.rows_RC, second.rows_RC)


def test_an_unreadable_image_is_a_failure(headed, tmp_path):
    shop = write_shapes(tmp_path / "shop", per_class=2)
    (shop / "red-disc" / "0.png").write_bytes(b"no image")
    images = take_snapshot(read_dataset(shop)).images

    features = store(tmp_path / "cache", headed).read_or_compute(images, everything(images))

    (position,) = features.failures
    assert images[position].location == "red-disc/0.png"


def test_a_full_disk_names_the_remedy_and_leaves_no_partial_file(images, headed, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.features.save_file", fail)
    made = store(tmp_path, headed)

    with pytest.raises(OSError, match=r"No space left.*--cache"):
        made.read_or_compute(images, everything(images))

    assert list(made.directory.iterdir()) == []


def test_the_probability_of_plain_images_changes_no_view(images, headed, tmp_path):
    first = store(tmp_path / "one", headed, replace(KNOBS, plain=0.0))
    second = store(tmp_path / "two", headed, replace(KNOBS, plain=0.9))

    rows = [made.read_or_compute(images[:4], everything(images[:4])).rows_RC for made in (first, second)]

    assert torch.equal(*rows)
    assert first.directory.name == second.directory.name


def test_catalogue_images_also_have_scenes(images, headed, tmp_path):
    with_scenes = replace(KNOBS, catalogue_scenes=2)

    features = store(tmp_path, headed, with_scenes).read_or_compute(images, everything(images))

    counts = {image.role: count for image, count in zip(images, features.num_views.tolist(), strict=True)}
    assert counts == {"catalogue": 6, "example": 3}


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_an_image_that_changed_since_it_was_hashed_is_named(headed, tmp_path, change):
    shop = write_shapes(tmp_path / "shop", per_class=2)
    images = take_snapshot(read_dataset(shop)).images
    path = shop / "red-disc" / "0.png"
    path.write_bytes((shop / "red-disc" / "1.png").read_bytes()) if change == "edited" else path.unlink()

    with pytest.raises(InvalidDataset, match=r"red-disc/0\.png"):
        store(tmp_path / "cache", headed).read_or_compute(images, everything(images))


def both_kinds(images, headed, directory):
    """The same features in memory, and left in their files."""
    model, preprocessing = headed
    loaded = FeatureStore(directory, model, preprocessing, KNOBS, CPU).read_or_compute(images, everything(images))
    left = FeatureStore(directory, model, preprocessing, KNOBS, CPU, max_memory_bytes=0)
    return loaded, left.read_or_compute(images, everything(images))


def test_features_that_stay_in_their_files_equal_those_in_memory(images, headed, tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.features._IMAGES_PER_PART", 5)

    loaded, left = both_kinds(images, headed, tmp_path)

    assert isinstance(left.rows_RC, StoredRows)
    rows = np.random.default_rng(0).permutation(len(left.rows_RC)).repeat(2)
    assert torch.equal(left.take(rows), loaded.take(rows))
    assert torch.equal(left.plain(np.arange(len(images))), loaded.plain(np.arange(len(images))))
    assert left.take(np.zeros(0, np.int64)).shape == (0, 128)


def test_training_inputs_of_features_in_files_equal_those_in_memory(images, headed, tmp_path):
    chosen, plain = np.arange(8, dtype=np.int64), np.zeros(8, bool)

    loaded, left = [FeatureInputs(headed[0], features, CPU) for features in both_kinds(images, headed, tmp_path)]

    batches = [inputs.batch(chosen, plain, torch.Generator().manual_seed(0), slice(2, 6)) for inputs in (loaded, left)]
    assert torch.equal(*batches)
    np.testing.assert_array_equal(loaded.embed(chosen), left.embed(chosen))


def test_an_unreadable_image_has_zeros_in_files_too(headed, tmp_path):
    shop = write_shapes(tmp_path / "shop", per_class=2)
    (shop / "red-disc" / "0.png").write_bytes(b"no image")
    images = take_snapshot(read_dataset(shop)).images

    loaded, left = both_kinds(images, headed, tmp_path / "cache")

    assert left.failures == loaded.failures
    assert left.failures
    assert torch.equal(left.take(np.arange(len(left.rows_RC))), loaded.rows_RC)


def test_a_file_of_features_that_vanishes_is_named(images, headed, tmp_path):
    _, left = both_kinds(images, headed, tmp_path)
    for path in left.rows_RC.paths:
        path.unlink()

    with pytest.raises(OSError, match=r"the features in .*part-.* can no longer be read"):
        left.plain(np.array([0]))


def test_images_of_equal_bytes_and_other_roles_share_their_views(images, headed, tmp_path):
    catalogue = next(image for image in images if image.role == "catalogue")
    twice = [catalogue, replace(catalogue, role="example", label="other"), catalogue]

    loaded, left = both_kinds(twice, headed, tmp_path)

    assert loaded.num_views.tolist() == [4, 3, 4]
    assert torch.equal(loaded.plain(np.array([0, 0])), loaded.plain(np.array([1, 2])))
    assert torch.equal(left.take(np.arange(11)), loaded.rows_RC)
