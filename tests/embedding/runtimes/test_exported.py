import shutil

import numpy as np
import pytest
import torch

from embedding.embedder import Embedder
from embedding.runtimes import exported, exporting
from embedding.runtimes.exported import NetworkToExport, exported_network
from embedding.runtimes.onnx_network import OnnxNetwork
from embedding.runtimes.options import NetworkOptions
from embedding.runtimes.torch_network import TorchNetwork
from tests.images import scene


@pytest.fixture
def cache(exports, tmp_path):
    """A copy of the cache with one exported network."""
    return shutil.copytree(exports, tmp_path / "cache")


@pytest.fixture
def no_exporter(monkeypatch):
    """Fail the test if the exporter is started."""
    monkeypatch.setattr(exported, "_export", lambda *_: pytest.fail("exported again"))


@pytest.fixture
def copying_exporter(exports, tiny_network, monkeypatch):
    """An exporter that takes no time: it returns the network exported before."""
    calls = []

    def export(wanted, folder):
        calls.append(wanted.key)
        return shutil.copy(exports / tiny_network.key / "network.onnx", folder / "network.onnx")

    monkeypatch.setattr(exported, "_export", export)
    return calls


@pytest.mark.parametrize("num_images", [1, 2, 7, 33])
def test_the_exported_network_computes_the_same_embeddings(tiny_network, exports, num_images):
    images = [scene(seed, (80, 60)) for seed in range(num_images)]
    options = {name: NetworkOptions("cpu", runtime=name, cache_dir=exports) for name in ("torch", "onnxruntime")}
    embedders = {name: Embedder(tiny_network.model, tiny_network.preprocessing, each) for name, each in options.items()}

    by_torch, by_onnxruntime = (embedder.embed(images) for embedder in embedders.values())

    np.testing.assert_allclose(by_onnxruntime, by_torch, atol=1e-5)
    assert by_onnxruntime.dtype == np.float32
    # The runtime is no part of what an embedding means.
    assert embedders["torch"].space_id == embedders["onnxruntime"].space_id
    assert embedders["torch"].runtime == f"torch {torch.__version__}"
    assert embedders["onnxruntime"].runtime.startswith("onnxruntime 1.")


@pytest.mark.parametrize("num_images", [1, 2, 3, 4, 7])
def test_the_images_of_a_batch_are_divided_among_threads(tiny_network, exports, num_images):
    file = exports / tiny_network.key / "network.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), np.uint8)

    together, alone = OnnxNetwork(file, num_threads=3).run(pixels), OnnxNetwork(file, num_threads=1)

    np.testing.assert_allclose(
        together, np.concatenate([alone.run(pixels[n : n + 1]) for n in range(num_images)]), atol=1e-6
    )


@pytest.mark.long
def test_a_network_of_normalised_images_can_be_exported(tiny_network, tmp_path):
    """Training embeds augmented images, which are normalised on the device."""
    wanted = NetworkToExport(tiny_network.model, tiny_network.preprocessing, tiny_network.space_id, "normalised")
    images_NCHW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = tiny_network.model(images_NCHW).numpy()

    with exported_network(wanted, tmp_path) as file:
        actual = OnnxNetwork(file).run(images_NCHW.numpy())

    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_an_exported_network_is_exported_once(tiny_network, cache, no_exporter):
    with exported_network(tiny_network, cache) as file:
        assert file == cache / tiny_network.key / "network.onnx"


@pytest.mark.parametrize("name", ["network.onnx", "manifest.json"])
def test_a_damaged_file_is_exported_again(tiny_network, cache, copying_exporter, caplog, name):
    damaged = cache / tiny_network.key / name
    damaged.write_bytes(damaged.read_bytes()[:-10])

    with exported_network(tiny_network, cache) as file:
        OnnxNetwork(file)

    assert copying_exporter == [tiny_network.key]
    assert f"the exported network {tiny_network.key} is damaged and is exported again" in caplog.text
    with exported_network(tiny_network, cache):
        assert len(copying_exporter) == 1


def test_a_cache_that_cannot_be_written_to_is_reported(tiny_network, copying_exporter, tmp_path, caplog):
    (tmp_path / "file").touch()

    with exported_network(tiny_network, tmp_path / "file" / "networks") as file:
        OnnxNetwork(file)

    assert "cannot be kept" in caplog.text
    assert not file.exists()


def test_the_networks_used_last_are_kept(tiny_network, cache, copying_exporter, monkeypatch):
    monkeypatch.setattr(exported, "_MAX_KEPT", 2)
    others = [NetworkToExport(tiny_network.model, tiny_network.preprocessing, f"space-{n}") for n in range(2)]

    for wanted in (others[0], tiny_network, others[1]):
        with exported_network(wanted, cache):
            pass

    assert {path.name for path in cache.iterdir()} == {tiny_network.key, others[1].key}


def test_a_network_that_differs_from_torch_is_refused(tiny_network):
    class Shifted(TorchNetwork):
        def run(self, batch):
            return super().run(batch) + 2e-5

    cpu = torch.device("cpu")
    shifted = Shifted(tiny_network.model, tiny_network.preprocessing, cpu, takes="normalised")
    batch = exporting.example_batch(tiny_network.preprocessing, "normalised")

    with pytest.raises(ArithmeticError, match="differs from torch by 2e-05; 1e-05 is allowed"):
        exporting._compare(tiny_network.model, shifted, batch)
