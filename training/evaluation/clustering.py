"""Agreement of the classes with k-means clusters of the embeddings."""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from training.evaluation.inputs import Embeddings, Labels, as_embeddings, as_labels

# How the initial centres are chosen: images far from each other, or random images.
Algorithm = Literal["k-means, k-means++ start", "k-means, random start"]

# Multiplications per pass (images × clusters × dimensions) up to which k-means++ is used: half a minute on a core. The
# test halves of CUB and Cars take 1e9; that of SOP takes 3.5e11, one minute from a random start. Mini-batch k-means is
# not an alternative: with five images per class it reached a pairwise F1 of 0.01 on synthetic embeddings, where k-means
# reaches 0.70 from k-means++ and 0.43 from a random start.
_LARGEST_PASS = 2e10

# Small clusters converge within five to ten passes; Faiss stops after 20 or 25.
_MOST_PASSES = {"k-means, k-means++ start": 300, "k-means, random start": 25}


@dataclass(frozen=True, slots=True)
class ClusteringResult:
    """Agreement of clusters and classes, and how the clusters were computed."""

    nmi: float
    ami: float
    pairwise_f1: float
    seed: int
    num_clusters: int
    algorithm: Algorithm


def evaluate_clustering(
    embeddings: Embeddings, labels: Labels, *, num_clusters: int | None = None, seed: int = 0
) -> ClusteringResult:
    """Cluster unit-length embeddings [N, D], by default into as many clusters as there are classes.

    Large problems start from random images, which lowers every metric: compare results of the same algorithm only.
    Raises InvalidEmbeddings for invalid embeddings or labels.
    """
    embeddings_ND = as_embeddings(embeddings, "clustered", torch.device("cpu")).numpy()
    classes = as_labels(labels, "clustered", len(embeddings_ND))
    if num_clusters is None:
        num_clusters = len(np.unique(classes))
    if not 1 <= num_clusters <= len(classes):
        raise ValueError(f"num_clusters must be between 1 and the {len(classes)} images, got {num_clusters}")
    is_large = embeddings_ND.size * num_clusters > _LARGEST_PASS
    algorithm: Algorithm = "k-means, random start" if is_large else "k-means, k-means++ start"
    clusters = _cluster(embeddings_ND, num_clusters, seed, algorithm)
    return ClusteringResult(
        nmi=float(normalized_mutual_info_score(classes, clusters)),
        ami=float(adjusted_mutual_info_score(classes, clusters)),
        pairwise_f1=pairwise_f1(classes, clusters),
        seed=seed,
        num_clusters=num_clusters,
        algorithm=algorithm,
    )


def _cluster(
    embeddings_ND: NDArray[np.float32], num_clusters: int, seed: int, algorithm: Algorithm
) -> NDArray[np.int64]:
    start = "random" if algorithm == "k-means, random start" else "k-means++"
    k_means = KMeans(num_clusters, init=start, n_init=1, max_iter=_MOST_PASSES[algorithm], random_state=seed)
    with warnings.catch_warnings():
        # Raised for fewer distinct points than clusters: collapsed embeddings, which the metrics show.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters: NDArray[np.int64] = k_means.fit_predict(embeddings_ND).astype(np.int64)
    return clusters


def pairwise_f1(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> float:
    """Return the F1 score of "these two images belong together" over all pairs of images.

    1.0 if neither classes nor clusters contain any pair.
    """
    classes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    _, cluster_ids = np.unique(clusters, return_inverse=True)
    # A dense class × cluster table would have 1e8 cells for SOP, nearly all of them empty.
    cells = classes * (cluster_ids.max() + 1) + cluster_ids
    num_found, num_same_class, num_same_cluster = (_num_pairs(parts) for parts in (cells, classes, cluster_ids))
    num_joined = num_same_class + num_same_cluster
    return 2 * num_found / num_joined if num_joined else 1.0


def _num_pairs(parts: NDArray[np.int64]) -> int:
    """Count the pairs of images in the same part; exact up to 3e9 images."""
    counts = np.unique(parts, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())
