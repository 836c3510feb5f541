"""The network from a normalised image to a unit embedding: backbone, pooling, head.

Shape legend: N images, C channels, H height, W width, D embedding dimension.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from embedding.backbones import DEFAULT_BACKBONE, create_backbone
from embedding.errors import InvalidCheckpoint
from embedding.preprocessing import Preprocessing

PoolingName = Literal["average", "gem"]
HeadName = Literal["none", "linear"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The configuration needed, in addition to the weights, to rebuild a model.

    With `head="none"` the embedding is the pooled feature, and `embedding_dim` is the backbone's number of channels
    (0 until the model is built).
    """

    backbone: str = DEFAULT_BACKBONE
    pooling: PoolingName = "average"
    head: HeadName = "none"
    embedding_dim: int = 0

    def __post_init__(self) -> None:
        if self.pooling not in get_args(PoolingName):
            raise ValueError(f"pooling must be one of {', '.join(get_args(PoolingName))}, got {self.pooling!r}")
        if self.head not in get_args(HeadName):
            raise ValueError(f"head must be one of {', '.join(get_args(HeadName))}, got {self.head!r}")
        if self.head == "linear" and self.embedding_dim < 1:
            raise ValueError(f"a linear head needs an embedding_dim of at least 1, got {self.embedding_dim}")

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that a checkpoint stores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Self:
        """Read a stored value; raises InvalidCheckpoint for unknown names or values."""
        try:
            return cls(**cast(dict[str, Any], stored))  # checked by __post_init__
        except (TypeError, ValueError) as error:
            raise InvalidCheckpoint(f"the stored architecture is invalid: {error}") from error


class AveragePooling(nn.Module):
    """The mean over positions: [N, C, H, W] to [N, C]."""

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Pool a feature map."""
        return features_NCHW.float().mean(dim=(2, 3))


class GeMPooling(nn.Module):
    """The generalised mean over positions (GeM, arXiv:1711.02512): [N, C, H, W] to [N, C].

    `p = 1` is the average, large `p` approaches the maximum; `p` is learned.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        if p < 1:
            raise ValueError(f"p must be at least 1, got {p}")
        self.p = nn.Parameter(torch.tensor(p))

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Pool a feature map."""
        # A zero activation would make the gradient of x**p undefined.
        positive_NCHW = features_NCHW.float().clamp(min=1e-6)
        return positive_NCHW.pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class LinearHead(nn.Linear):
    """A linear map from the unit-length pooled feature to the embedding dimension.

    The input has unit length, so that a head can be trained on stored zero-shot embeddings with the same result as
    through the whole network.
    """

    @torch.no_grad()
    def set_principal_components(self, pooled_NC: NDArray[np.float32]) -> None:
        """Initialise the head with the principal components of unit pooled features [N, C].

        The head then centres, rotates and drops the directions of least variance, so that training starts close to
        zero-shot retrieval. Raises ValueError when there are fewer images than components.
        """
        from sklearn.decomposition import PCA

        num_images, num_channels = pooled_NC.shape
        if num_channels != self.in_features:
            raise ValueError(f"features have {num_channels} channels, but the head takes {self.in_features}")
        most = min(num_images, num_channels)
        if self.out_features > most:
            raise ValueError(
                f"{self.out_features} principal components need as many images and channels; "
                f"there are {num_images} images of {num_channels} channels"
            )
        components = PCA(self.out_features, svd_solver="full").fit(pooled_NC.astype(np.float64))
        self.weight.copy_(torch.from_numpy(components.components_))
        self.bias.copy_(torch.from_numpy(-components.components_ @ components.mean_))


class EmbeddingModel(nn.Module):
    """Normalised images [N, 3, H, W] to float32 embeddings [N, D] whose rows have L2 norm 1."""

    def __init__(self, architecture: Architecture, backbone: nn.Module, num_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = GeMPooling() if architecture.pooling == "gem" else AveragePooling()
        is_linear = architecture.head == "linear"
        self.head = LinearHead(num_channels, architecture.embedding_dim) if is_linear else nn.Identity()
        self.num_channels = num_channels
        self.embedding_dim = architecture.embedding_dim if is_linear else num_channels
        self.architecture = dataclasses.replace(architecture, embedding_dim=self.embedding_dim)

    def pool(self, images_NCHW: Tensor) -> Tensor:
        """Return the pooled features [N, C] of unit length: the input of the head, and the zero-shot embedding."""
        return F.normalize(self.pooling(self.backbone(images_NCHW)), dim=1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the embeddings of normalised images."""
        # Normalised in float32, whatever the precision of the backbone.
        return F.normalize(self.head(self.pool(images_NCHW)).float(), dim=1)


class HeadNetwork(nn.Module):
    """The last part of an EmbeddingModel: unit pooled features [N, C] to embeddings [N, D].

    It shares the head's weights with the model, so that training it trains the model.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, pooled_NC: Tensor) -> Tensor:
        """Return the embeddings of images with these pooled features."""
        return F.normalize(self.head(pooled_NC).float(), dim=1)


def without_head(model: EmbeddingModel) -> EmbeddingModel:
    """Return a model whose embedding is the pooled feature; backbone and pooling are shared, not copied."""
    architecture = dataclasses.replace(model.architecture, head="none", embedding_dim=0)
    headless = EmbeddingModel(architecture, model.backbone, model.num_channels)
    headless.pooling = model.pooling
    return headless


def with_linear_head(model: EmbeddingModel, embedding_dim: int) -> EmbeddingModel:
    """Return a model with a new linear head of random weights; backbone and pooling are shared, not copied."""
    architecture = dataclasses.replace(model.architecture, head="linear", embedding_dim=embedding_dim)
    headed = EmbeddingModel(architecture, model.backbone, model.num_channels)
    headed.pooling = model.pooling
    return headed


def create_model(architecture: Architecture, *, pretrained: bool) -> tuple[EmbeddingModel, Preprocessing]:
    """Return a model in evaluation mode, and the preprocessing that its backbone was trained with."""
    loaded = create_backbone(architecture.backbone, pretrained=pretrained)
    model = EmbeddingModel(architecture, loaded.module, loaded.num_channels)
    return model.eval(), loaded.preprocessing
