"""A model that costs next to nothing, for tests that are not about what it finds."""

from pathlib import Path

import torch

from embedding.checkpoint import save_checkpoint
from embedding.model import Architecture, create_model


def save_tiny_checkpoint(directory: Path, seed: int = 0) -> Path:
    """Write a checkpoint with weights drawn at random, for images of 32 pixels; another seed is another space."""
    torch.manual_seed(seed)
    model, preprocessing = create_model(Architecture("conv4"), pretrained=False)
    save_checkpoint(directory, model, preprocessing)
    return directory
