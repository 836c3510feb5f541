import threading
from contextlib import closing

import numpy as np
import pytest
import torch

from embedding.model import Architecture, create_model, without_head
from tests.training.shapes import write_shapes
from training.config import AugmentationConfig
from training.data.features import FeatureStore
from training.data.pooling import ViewPooling
from training.data.snapshot import take_snapshot
from training.data.views import Views
from training.datasets.reading import read_dataset

CPU = torch.device("cpu")
KNOBS = AugmentationConfig(views=2, catalogue_views=3, catalogue_scenes=1, brightness=0.2, saturation=0.2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    shop = write_shapes(tmp_path_factory.mktemp("pooling") / "shop", per_class=2, with_examples=True)
    return take_snapshot(read_dataset(shop)).images


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, preprocessing = create_model(Architecture("conv4"), pretrained=False)
        return without_head(model).eval(), preprocessing


class SharedNetwork:
    """Runs the model in the threads that call it, as ONNX Runtime does; notes who called with how many images."""

    def __init__(self, model, fail_at=None):
        self._model = model
        self._fail_at = fail_at
        self.threads = []
        self.torch_threads = set()

    @torch.inference_mode()
    def run(self, batch):
        assert batch.flags.c_contiguous
        self.torch_threads.add(torch.get_num_threads())
        self.threads.append(threading.get_ident())
        if self._fail_at is not None and len(self.threads) > self._fail_at:
            raise MemoryError("no memory for a batch")
        return self._model(torch.from_numpy(batch)).numpy()


def store(directory, backbone, network=None):
    model, preprocessing = backbone
    return FeatureStore(directory, model, preprocessing, KNOBS, CPU, choose_network=lambda _num_views: network)


def everything(images):
    return np.ones(len(images), bool)


def test_threads_compute_the_features_that_torch_computes(images, backbone, tmp_path):
    """Within 1e-5, the tolerance between runtimes and sizes of batches."""
    network = SharedNetwork(backbone[0])

    shared = store(tmp_path / "shared", backbone, network).read_or_compute(images, everything(images))

    alone = store(tmp_path / "alone", backbone).read_or_compute(images, everything(images))
    torch.testing.assert_close(shared.rows_RC, alone.rows_RC, atol=1e-5, rtol=0)
    assert threading.get_ident() not in network.threads
    assert len(network.threads) == len(shared.rows_RC)


def test_each_thread_leaves_the_other_cores_alone_and_torch_gets_them_back(images, backbone, tmp_path):
    network = SharedNetwork(backbone[0])
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        store(tmp_path, backbone, network).read_or_compute(images, everything(images))

        assert network.torch_threads == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("is_shared", [True, False])
def test_an_interrupted_run_and_its_continuation_give_the_features_of_one_run(
    images, backbone, tmp_path, monkeypatch, is_shared
):
    """Within 1e-5: the continuation batches other images together."""
    monkeypatch.setattr("training.data.features._IMAGES_PER_PART", 3)
    network = SharedNetwork(backbone[0]) if is_shared else None
    whole = store(tmp_path / "whole", backbone, network).read_or_compute(images, everything(images))

    def stop(done, _total):
        if done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "parts", backbone, network).read_or_compute(images, everything(images), stop)
    calls = []
    continued = store(tmp_path / "parts", backbone, network).read_or_compute(
        images, everything(images), lambda *done: calls.append(done)
    )

    assert 0 < calls[-1][1] < len(images)
    torch.testing.assert_close(continued.rows_RC, whole.rows_RC, atol=1e-5, rtol=0)


def test_an_error_of_the_network_ends_the_threads(images, backbone, tmp_path):
    threads = threading.active_count()
    with pytest.raises(MemoryError, match="no memory for a batch"):
        store(tmp_path, backbone, SharedNetwork(backbone[0], fail_at=7)).read_or_compute(images, everything(images))

    assert threading.active_count() == threads


def test_a_network_is_chosen_for_the_number_of_missing_views(images, backbone, tmp_path):
    asked: list[int] = []
    model, preprocessing = backbone
    made = FeatureStore(tmp_path, model, preprocessing, KNOBS, CPU, choose_network=asked.append)

    features = made.read_or_compute(images, everything(images))
    made.read_or_compute(images, everything(images))

    assert asked == [len(features.rows_RC)]


@pytest.mark.parametrize("is_shared", [True, False])
def test_groups_come_in_the_order_of_the_images(images, backbone, is_shared):
    model, preprocessing = backbone
    views = Views(KNOBS, preprocessing)
    pooling = ViewPooling(views, model, CPU, SharedNetwork(model) if is_shared else None)
    wanted = [(image, views.of(image, is_varied=True)) for image in images]

    with closing(pooling.compute(wanted)) as computed:
        groups = list(computed)

    keys = [key for group in groups for key in group.keys]
    assert keys == [f"{image.sha256}/{view}" for image, numbers in wanted for view in numbers]
    assert sum(group.num_images for group in groups) == len(images)
    assert len(keys) == sum(len(group.rows) for group in groups)
