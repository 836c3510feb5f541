"""The weights that fine-tuning starts from."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmarks.gpu_check.settings import Settings
from embedding.backbones import DEFAULT_BACKBONE, packaged_weights
from embedding.checkpoint import save_checkpoint
from embedding.errors import MissingWeights
from embedding.model import Architecture, create_model

# Not EfficientNet-Lite0: with a momentum of 0.01 its batch norm statistics need hundreds of steps to follow the data,
# so that a short run from random weights would be measured with statistics of no data.
_TRAINABLE_FROM_SCRATCH = "resnet18"


@dataclass(frozen=True, slots=True)
class Weights:
    """The knobs of `network` that select the weights, and a description for the table."""

    network: dict[str, str]
    is_pretrained: bool
    description: str


def find_weights(settings: Settings) -> Weights:
    """Return the weights of the given file, else the installed ones, else random ones.

    Raises MissingWeights if the file does not contain the weights of EfficientNet-Lite0.
    """
    if settings.weights is not None:
        checkpoint = settings.work / "weights"
        _save_as_checkpoint(settings.weights, checkpoint)
        return Weights({"checkpoint": str(checkpoint)}, True, f"{DEFAULT_BACKBONE} from {settings.weights.name}")
    if settings.network != DEFAULT_BACKBONE:
        return _random(settings.network)
    try:
        packaged_weights()
    except MissingWeights as error:
        return _random(_TRAINABLE_FROM_SCRATCH, f": {error}")
    network = {"backbone": settings.network, "weights": "pretrained"}
    return Weights(network, True, f"pretrained {settings.network}, the installed package")


def _random(backbone: str, why: str = "") -> Weights:
    network = {"backbone": backbone, "weights": "random", "head_start": "random"}
    return Weights(network, False, f"random {backbone}{why}")


def _save_as_checkpoint(path: Path, checkpoint: Path) -> None:
    """Write a checkpoint without a head, which training can start from."""
    model, preprocessing = create_model(Architecture(DEFAULT_BACKBONE), pretrained=False)
    try:
        stored = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        # The classifier of ImageNet's 1,000 classes is not part of the backbone.
        weights = {name: tensor for name, tensor in stored.items() if not name.startswith("_fc.")}
        model.backbone.load_state_dict(weights)
    except (OSError, ValueError, RuntimeError, AttributeError, pickle.UnpicklingError, SafetensorError) as error:
        raise MissingWeights(
            f"{path} does not contain the weights of {DEFAULT_BACKBONE}: {str(error).splitlines()[0]}"
        ) from error
    save_checkpoint(checkpoint, model, preprocessing)
