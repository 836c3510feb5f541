import numpy as np
import pytest
import torch

from embedding.model import Architecture, create_model, with_linear_head
from training.config import NetworkConfig
from training.errors import InvalidConfig
from training.head_start import start_head, whitened_components


def problem(num_classes=30, per_class=8, channels=24, seed=0):
    """Classes differ slightly in the last eight channels, images of a class strongly in the first four."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_classes).repeat(per_class)
    features = np.zeros((len(labels), channels))
    features[:, -8:] = generator.normal(0, 0.3, (num_classes, 8))[labels]
    features[:, :4] = generator.normal(0, 3.0, (len(labels), 4))
    features += generator.normal(0, 0.02, features.shape)
    return features.astype(np.float32), labels


def plain(labels):
    return np.ones(len(labels), bool)


def recall(embeddings, labels):
    embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = embeddings @ embeddings.T - 2 * np.eye(len(labels))
    return (labels[scores.argmax(axis=1)] == labels).mean()


def embed(features, weight, bias):
    return features @ weight.numpy().T + bias.numpy()


def test_whitening_separates_classes_with_large_variance_within_them():
    features, labels = problem()
    groups = np.zeros(len(labels), np.int64)

    weight, bias = whitened_components(features, labels, groups, plain(labels), 8, shrinkage=0.01)

    assert recall(features, labels) < 0.3
    assert recall(embed(features, weight, bias), labels) > 0.95


def test_whitening_separates_unseen_classes():
    features, labels = problem(60)
    seen = labels < 30
    groups = np.zeros(int(seen.sum()), np.int64)

    weight, bias = whitened_components(features[seen], labels[seen], groups, plain(groups), 8, shrinkage=0.01)

    assert recall(embed(features[~seen], weight, bias), labels[~seen]) > 0.9


def test_within_classes_the_whitened_scatter_is_the_identity():
    features, labels = problem(channels=10, per_class=40)
    groups = np.zeros(len(labels), np.int64)

    weight, bias = whitened_components(features, labels, groups, plain(labels), 10, shrinkage=1e-9)

    embedded = embed(features, weight, bias)
    means = np.stack([embedded[labels == label].mean(axis=0) for label in range(30)])
    residuals = embedded - means[labels]
    np.testing.assert_allclose(residuals.T @ residuals / len(labels), np.eye(10), atol=0.02)


def test_components_come_in_the_order_of_their_variance():
    features, labels = problem()

    weight, bias = whitened_components(
        features, labels, np.zeros(len(labels), np.int64), plain(labels), 8, shrinkage=0.1
    )

    variances = embed(features, weight, bias).var(axis=0)
    assert (np.diff(variances) < 1e-3).all()


def test_few_catalogue_images_weigh_as_much_as_many_photos():
    """The shift from studio to photo is scatter within the class, however few studio images there are."""
    features, labels = problem()
    is_catalogue = np.zeros(len(labels), bool)
    is_catalogue[::8] = True
    features[is_catalogue, 12] += 2.0

    weight, bias = whitened_components(
        features, labels, is_catalogue.astype(np.int64), plain(labels), 8, shrinkage=0.01
    )

    step = np.zeros((1, 24), np.float32)
    step[0, 12] = 2.0
    moved = np.linalg.norm(embed(step, weight, bias * 0))
    assert moved < 3 * np.linalg.norm(embed(features, weight, bias), axis=1).mean()
    assert recall(embed(features, weight, bias), labels) > 0.9


def test_more_shrinkage_is_nearer_to_principal_components():
    features, labels = problem()
    groups = np.zeros(len(labels), np.int64)

    weight, _ = whitened_components(features, labels, groups, plain(labels), 4, shrinkage=1e6)

    # The first channels have the largest variance, which whitening would have scaled down.
    energy = (weight[:, :4] ** 2).sum() / (weight**2).sum()
    assert float(energy) > 0.95


@pytest.mark.parametrize("start", ["principal_components", "whitening"])
def test_a_head_is_initialised(start):
    model, _ = create_model(Architecture("conv4"), pretrained=False)
    model = with_linear_head(model, 6)
    features, labels = problem(channels=128)
    before = [parameter.clone() for parameter in model.head.parameters()]

    start_head(
        model,
        NetworkConfig(head_start=start),
        features,
        labels,
        np.zeros(len(labels), np.int64),
        np.ones(len(labels), bool),
    )

    assert not any(torch.equal(old, new) for old, new in zip(before, model.head.parameters(), strict=True))


def test_a_random_start_does_not_change_the_head():
    model, _ = create_model(Architecture("conv4"), pretrained=False)
    model = with_linear_head(model, 6)
    features, labels = problem(channels=128)
    before = [parameter.clone() for parameter in model.head.parameters()]

    start_head(
        model,
        NetworkConfig(head_start="random"),
        features,
        labels,
        np.zeros(len(labels), np.int64),
        np.ones(len(labels), bool),
    )

    assert all(torch.equal(old, new) for old, new in zip(before, model.head.parameters(), strict=True))


def test_fewer_images_than_components_name_the_setting():
    model, _ = create_model(Architecture("conv4"), pretrained=False)
    model = with_linear_head(model, 100)
    features, labels = problem(num_classes=5, channels=128)
    groups = np.zeros(len(labels), np.int64)

    with pytest.raises(InvalidConfig, match=r"100 dimensions cannot start from 40 training images.*lower network\."):
        start_head(model, NetworkConfig(head_start="principal_components"), features, labels, groups, plain(labels))


def test_whitening_works_with_few_images():
    """So that a small shop can train with the default preset."""
    model, _ = create_model(Architecture("conv4"), pretrained=False)
    model = with_linear_head(model, 100)
    features, labels = problem(num_classes=5, channels=128)
    groups = np.zeros(len(labels), np.int64)

    start_head(model, NetworkConfig(head_start="whitening"), features, labels, groups, plain(labels))

    assert all(bool(parameter.isfinite().all()) for parameter in model.head.parameters())


def test_more_dimensions_than_channels_are_refused():
    model, _ = create_model(Architecture("conv4"), pretrained=False)
    model = with_linear_head(model, 200)
    features, labels = problem(num_classes=50, channels=128)
    groups = np.zeros(len(labels), np.int64)

    with pytest.raises(InvalidConfig, match="200 dimensions"):
        start_head(model, NetworkConfig(head_start="whitening"), features, labels, groups, plain(labels))
