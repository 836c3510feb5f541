import numpy as np
import pytest
import torch

from embedding.model import Architecture, create_model
from embedding.runtimes.options import NetworkOptions
from training.running.networks import options_for, threaded_network


@pytest.mark.parametrize(
    ("runtime", "num_images", "expected"),
    [("auto", 10, "torch"), ("auto", 10_000, "auto"), ("onnxruntime", 10, "onnxruntime"), ("torch", 10_000, "torch")],
)
def test_auto_exports_no_network_for_a_few_images(runtime, num_images, expected):
    assert options_for(NetworkOptions("cpu", runtime=runtime), num_images).runtime == expected


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model(Architecture("conv4"), pretrained=False)


@pytest.mark.parametrize(("runtime", "num_images"), [("torch", 10_000), ("auto", 10)])
def test_torch_runs_the_model_itself(backbone, tmp_path, runtime, num_images):
    options = NetworkOptions("cpu", runtime=runtime, cache_dir=tmp_path / "networks")

    model, preprocessing = backbone
    assert threaded_network(model, preprocessing, options, num_images) is None
    assert not (tmp_path / "networks").exists()


@pytest.mark.long
def test_onnxruntime_gives_the_pooled_features_of_normalised_images(backbone, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, preprocessing = backbone
    options = NetworkOptions("cpu", runtime="onnxruntime", cache_dir=tmp_path / "networks")

    network = threaded_network(model, preprocessing, options, 10)

    assert network is not None
    size = preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    inputs = preprocessing.normalise(torch.from_numpy(pixels)).contiguous()
    with torch.inference_mode():
        expected = model.pool(inputs).numpy()
    np.testing.assert_allclose(network.run(inputs.numpy()), expected, atol=1e-5)
