"""Initial weights of a new linear head: principal components or within-class whitening.

Shape legend: M feature vectors, C channels, D embedding dimension, K classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding.model import EmbeddingModel, LinearHead
from training.config import NetworkConfig
from training.errors import InvalidConfig


def start_head(
    model: EmbeddingModel,
    config: NetworkConfig,
    pooled_MC: NDArray[np.float32],
    labels_M: NDArray[np.int64],
    groups_M: NDArray[np.int64],
    is_plain_M: NDArray[np.bool_],
) -> None:
    """Initialise a new head from unit pooled features of training images and their augmented views.

    `groups_M` numbers the kinds of images of a class (catalogue images, photos), which have equal weight whatever
    their counts; `is_plain_M` marks the images themselves, as opposed to augmented views. Raises InvalidConfig for
    more dimensions than channels or, with principal components, than images.
    """
    if config.head_start == "random":
        return
    assert isinstance(model.head, LinearHead)
    num_images, num_channels = int(is_plain_M.sum()), pooled_MC.shape[1]
    # Whitening gives one direction per channel, however few images there are.
    most = num_channels if config.head_start == "whitening" else min(num_images, num_channels)
    if model.embedding_dim > most:
        raise InvalidConfig(
            f"a head of {model.embedding_dim} dimensions cannot start from {num_images} training images of "
            f'{num_channels} channels; lower network.embedding_dim, or set network.head_start = "random"'
        )
    if config.head_start == "principal_components":
        model.head.set_principal_components(pooled_MC[is_plain_M])
        return
    weight_DC, bias_D = whitened_components(
        pooled_MC, labels_M, groups_M, is_plain_M, model.embedding_dim, shrinkage=config.head_shrinkage
    )
    with torch.no_grad():
        model.head.weight.copy_(weight_DC)
        model.head.bias.copy_(bias_D)


def whitened_components(
    pooled_MC: NDArray[np.float32],
    labels_M: NDArray[np.int64],
    groups_M: NDArray[np.int64],
    is_plain_M: NDArray[np.bool_],
    embedding_dim: int,
    *,
    shrinkage: float,
) -> tuple[Tensor, Tensor]:
    """Return weight [D, C] and bias [D]: within-class whitening, then principal components of the result.

    Whitening with (S + s·tr(S)/C·I)^(-1/2), where S is the scatter within classes and s the shrinkage, scales down the
    directions in which images of one class differ (light, background, studio or photo). The shrinkage limits
    directions in which no training class varies. This is relevant component analysis (Shental et al., ECCV 2002);
    equal weights for the kinds of images are our choice. The components come from the images without augmented views,
    which lowered the recall of unseen classes (docs/study.md).
    """
    features_MC = pooled_MC.astype(np.float64)
    # Renumber: some classes may have no vector here.
    labels_M = np.unique(labels_M, return_inverse=True)[1]
    weights_M = _weights(labels_M, groups_M)
    num_classes, num_channels = int(labels_M.max()) + 1, features_MC.shape[1]
    means_KC = np.zeros((num_classes, num_channels))
    # In place where possible: each of these arrays takes 200 MB for 20,000 vectors of 1,280 channels.
    weighted_MC = features_MC * weights_M[:, None]
    weighted_MC *= num_classes
    np.add.at(means_KC, labels_M, weighted_MC)
    residuals_MC = np.subtract(features_MC, means_KC[labels_M], out=weighted_MC)
    within_CC = _scatter(residuals_MC, weights_M)
    del weighted_MC, residuals_MC
    plain_MC = features_MC[is_plain_M]
    plain_weights_M = _weights(np.unique(labels_M[is_plain_M], return_inverse=True)[1], groups_M[is_plain_M])
    centre_C = plain_weights_M @ plain_MC
    total_CC = _scatter(plain_MC - centre_C, plain_weights_M)
    eigenvalues, vectors = np.linalg.eigh(within_CC)
    ridge = shrinkage * np.trace(within_CC) / num_channels
    whitening_CC = (vectors / np.sqrt(eigenvalues.clip(min=0) + ridge)) @ vectors.T
    _, components = np.linalg.eigh(whitening_CC @ total_CC @ whitening_CC)
    # eigh sorts eigenvalues in ascending order; the largest variance comes first here.
    weight_DC = components[:, ::-1][:, :embedding_dim].T @ whitening_CC
    return torch.from_numpy(weight_DC).float(), torch.from_numpy(-weight_DC @ centre_C).float()


def _weights(labels_M: NDArray[np.int64], groups_M: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights with sum 1, equal for all classes, all groups of a class and all vectors of a group."""
    cells = labels_M * (int(groups_M.max()) + 1) + groups_M
    _, cell_of, sizes = np.unique(cells, return_inverse=True, return_counts=True)
    first_of_cell = np.unique(cells, return_index=True)[1]
    cells_of_class = np.bincount(labels_M[first_of_cell])
    num_classes = len(np.unique(labels_M))
    weights: NDArray[np.float64] = 1 / (sizes[cell_of] * cells_of_class[labels_M] * num_classes)
    return weights


def _scatter(residuals_MC: NDArray[np.float64], weights_M: NDArray[np.float64]) -> NDArray[np.float64]:
    scatter_CC: NDArray[np.float64] = (residuals_MC * weights_M[:, None]).T @ residuals_MC
    return scatter_CC
