"""The model that a run starts from: a backbone or a checkpoint, with a head."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from embedding.checkpoint import load_model
from embedding.model import Architecture, EmbeddingModel, create_model, with_linear_head
from embedding.preprocessing import Preprocessing
from training.config import NetworkConfig
from training.errors import InvalidConfig


@dataclass(frozen=True, slots=True)
class StartingModel:
    """A model before training, and where its weights come from."""

    model: EmbeddingModel
    preprocessing: Preprocessing
    has_new_head: bool  # random until `start_head` initialises it
    is_pretrained: bool
    source: str


def create_starting_model(config: NetworkConfig, seed: int) -> StartingModel:
    """Create the model of a configuration; every random weight depends on `seed` alone.

    Raises InvalidConfig, and EmbeddingError if a checkpoint or published weights cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.checkpoint:
            model, facts = load_model(Path(config.checkpoint))
            preprocessing, source, is_pretrained = facts.preprocessing, f"checkpoint {facts.space_id}", True
        else:
            is_pretrained = config.weights == "pretrained"
            architecture = Architecture(config.backbone, config.pooling)
            model, preprocessing = create_model(architecture, pretrained=is_pretrained)
            source = f"{config.weights} {config.backbone}"
        has_new_head = model.architecture.head == "none"
        if has_new_head:
            model = with_linear_head(model, config.embedding_dim)
    if config.image_size:
        preprocessing = dataclasses.replace(preprocessing, image_size=config.image_size)
    if config.train == "head" and not is_pretrained:
        raise InvalidConfig(
            'network.train = "head" freezes the backbone, which network.weights = "random" leaves untrained; '
            'set network.weights = "pretrained" or network.train = "all"'
        )
    return StartingModel(model, preprocessing, has_new_head, is_pretrained, source)
