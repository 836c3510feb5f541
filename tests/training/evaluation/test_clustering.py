from itertools import combinations

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import pair_confusion_matrix

from training.errors import InvalidEmbeddings
from training.evaluation import clustering
from training.evaluation.clustering import evaluate_clustering, pairwise_f1


def made(num_images=300, num_classes=12, *, spread=0.2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    embeddings = rng.standard_normal((num_classes, 16))[labels] + spread * rng.standard_normal((num_images, 16))
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32), labels


def partitions(num_images, num_classes, num_clusters, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, num_classes, num_images), rng.integers(0, num_clusters, num_images)


@pytest.mark.parametrize("sizes", [(60, 5, 7), (60, 60, 4), (60, 1, 3), (2, 1, 1), (40, 30, 30)])
def test_pairwise_f1_equals_a_loop_over_pairs(sizes):
    labels, clusters = partitions(*sizes)
    pairs = [(labels[i] == labels[j], clusters[i] == clusters[j]) for i, j in combinations(range(len(labels)), 2)]
    true_positive = sum(same_class and same_cluster for same_class, same_cluster in pairs)
    wrong = sum(same_class != same_cluster for same_class, same_cluster in pairs)

    assert pairwise_f1(labels, clusters) == pytest.approx(2 * true_positive / (2 * true_positive + wrong), abs=1e-15)


def test_pairwise_f1_equals_that_of_sklearns_pairs():
    labels, clusters = partitions(5000, 40, 90)
    (_, false_positive), (false_negative, true_positive) = pair_confusion_matrix(labels, clusters)

    expected = 2 * true_positive / (2 * true_positive + false_positive + false_negative)

    assert pairwise_f1(labels, clusters) == pytest.approx(expected, abs=1e-15)


def test_pairwise_f1_does_not_overflow():
    """One class of SOP's size: 1.8e9 pairs, beyond int32; cells of labels far beyond it."""
    labels = np.full(60_502, 2**62)

    assert pairwise_f1(labels, np.zeros(60_502, np.int64)) == 1.0
    halves = np.arange(60_502) % 2
    num_same = 2 * (30_251 * 30_250 // 2)
    num_all = 60_502 * 60_501 // 2
    assert pairwise_f1(labels, halves) == pytest.approx(2 * num_same / (num_same + num_all), abs=1e-15)


def test_pairwise_f1_without_pairs_is_one():
    assert pairwise_f1(np.arange(5), np.arange(5)) == 1.0
    assert pairwise_f1(np.arange(5), np.zeros(5, np.int64)) == 0.0


@pytest.mark.parametrize("names", [np.arange(12), np.arange(12)[::-1] * 2**40])
def test_equals_pytorch_metric_learning_on_the_same_clusters(names):
    embeddings, labels = made(spread=0.9)
    clusters = KMeans(12, n_init=1, random_state=3).fit_predict(embeddings)
    peer = AccuracyCalculator(
        include=("NMI", "AMI"), device=torch.device("cpu"), kmeans_func=lambda *_: torch.from_numpy(clusters)
    )

    ours = evaluate_clustering(embeddings, names[labels], seed=3)
    theirs = peer.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))

    assert ours.nmi == pytest.approx(theirs["NMI"], abs=1e-6)
    assert ours.ami == pytest.approx(theirs["AMI"], abs=1e-6)
    assert 0.1 < ours.ami < 0.95


def test_well_separated_classes_are_found():
    labels = np.repeat(np.arange(8), 5)

    result = evaluate_clustering(np.eye(8, dtype=np.float32)[labels], labels)

    assert (result.nmi, result.ami, result.pairwise_f1) == pytest.approx((1, 1, 1))
    assert (result.num_clusters, result.seed, result.algorithm) == (8, 0, "k-means, k-means++ start")


def test_embeddings_without_classes_agree_by_chance_only():
    embeddings, labels = made(1000, 10)

    result = evaluate_clustering(embeddings, np.random.default_rng(5).permutation(labels))

    assert abs(result.ami) < 0.02
    assert result.pairwise_f1 == pytest.approx(0.1, abs=0.03)


def test_collapsed_embeddings_are_measured():
    result = evaluate_clustering(np.full((20, 4), 0.5, np.float32), np.arange(20) % 4)

    assert result.nmi == result.ami == 0


def test_the_seed_determines_the_clusters():
    embeddings, labels = made(spread=1.5)

    assert evaluate_clustering(embeddings, labels, seed=1) == evaluate_clustering(embeddings, labels, seed=1)
    assert evaluate_clustering(embeddings, labels, seed=1).nmi != evaluate_clustering(embeddings, labels, seed=2).nmi


def test_a_large_problem_reports_its_random_start(monkeypatch):
    embeddings, labels = made()
    thorough = evaluate_clustering(embeddings, labels)
    monkeypatch.setattr(clustering, "_LARGEST_PASS", 0)

    result = evaluate_clustering(embeddings, labels)

    assert result.algorithm == "k-means, random start"
    assert 0.7 * thorough.nmi < result.nmi <= thorough.nmi


@pytest.mark.parametrize("num_clusters", [0, 301])
def test_refuses_more_clusters_than_images(num_clusters):
    with pytest.raises(ValueError, match="between 1 and the 300 images"):
        evaluate_clustering(*made(), num_clusters=num_clusters)


def test_refuses_invalid_embeddings():
    embeddings, labels = made()

    with pytest.raises(InvalidEmbeddings, match="one label per image"):
        evaluate_clustering(embeddings, labels[1:])
    with pytest.raises(InvalidEmbeddings, match="normalise"):
        evaluate_clustering(embeddings * 5, labels)
