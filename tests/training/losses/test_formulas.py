"""Every loss and its gradient equal the formula."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.training.losses import oracles
from tests.training.losses.batches import LOSSES, create, draw_batch, run
from training.losses.factory import LossConfig

MORE_SETTINGS = {
    "contrastive": LossConfig("contrastive"),
    "triplet semi-hard wide": LossConfig("triplet", margin=1.0, mining="semi-hard"),
    "multi_similarity steep": LossConfig(
        "multi_similarity", positive_scale=14.35, negative_scale=75.83, threshold=0.66
    ),
    "lifted_structure small": LossConfig("lifted_structure", margin=0.1),
    "n_pair cold": LossConfig("n_pair", temperature=0.02),
    "normalised_softmax": LossConfig("normalised_softmax"),
    "angular wide": LossConfig("angular", angle_degrees=60),
    "proxy_anchor soft": LossConfig("proxy_anchor", margin=0.3, scale=8),
}


def oracle_of(config, loss, batch):
    parameters = dict(config.parameters)
    learnt = dict(loss.named_parameters())
    if config.name == "margin":
        return oracles.margin(batch, list(learnt["beta"]), parameters.get("margin", 0.2))
    if config.name == "proxy_anchor":
        return oracles.proxy_anchor(batch, learnt.get("proxies"), **parameters)
    name = "n_pair" if config.name == "normalised_softmax" else config.name
    return getattr(oracles, name)(batch, **parameters)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("pairs", ["all", "representative"])
@pytest.mark.parametrize("config", [*LOSSES.values(), *MORE_SETTINGS.values()], ids=[*LOSSES, *MORE_SETTINGS])
def test_value_and_gradients_equal_nested_loops(config, pairs, seed):
    config = dataclasses.replace(config, pairs=pairs)
    loss = create(config, seed)
    raw, labels, is_representative = draw_batch(seed)
    inputs = [raw, *loss.parameters()]
    restrict = oracles.with_all_pairs if pairs == "all" else oracles.with_representative_pairs
    batch = restrict(F.normalize(raw, dim=1), labels.tolist(), is_representative.tolist())

    value = run(loss, config, raw, labels, is_representative).value
    expected = oracle_of(config, loss, batch)

    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(value, inputs)
    expected_gradients = torch.autograd.grad(expected, inputs)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-9)
    assert any(gradient.abs().max() > 0 for gradient in gradients) == (expected.item() > 0)


@pytest.mark.parametrize("config", LOSSES.values(), ids=LOSSES)
def test_mixed_is_the_representative_loss_plus_a_share_of_the_plain_one(config):
    plain, restricted, mixed = (
        dataclasses.replace(config, pairs=pairs, mixed_weight=0.3) for pairs in ("all", "representative", "mixed")
    )
    loss = create(mixed)
    batch = draw_batch(3)

    output = run(loss, mixed, *batch)

    parts = [run(loss.loss, one, *batch) for one in (restricted, plain)]
    torch.testing.assert_close(output.value, parts[0].value + 0.3 * parts[1].value, rtol=1e-12, atol=0)
    assert output.num_pairs == parts[0].num_pairs + parts[1].num_pairs


def test_n_pair_and_normalised_softmax_are_one_loss():
    batch = draw_batch(0)

    values = [
        run(create(config), config, *batch).value
        for config in (LossConfig("n_pair", "representative"), LossConfig("normalised_softmax", "representative"))
    ]

    assert values[0] == values[1]
    # Over representatives it is a softmax over the classes, so that cross-entropy gives the same.
    raw, labels, is_representative = batch
    embeddings = F.normalize(raw, dim=1)
    samples, representatives = embeddings[~is_representative], embeddings[is_representative]
    targets = (labels[~is_representative].unsqueeze(1) == labels[is_representative]).int().argmax(1)
    expected = F.cross_entropy(samples @ representatives.T / 0.11, targets)
    torch.testing.assert_close(values[0], expected, rtol=1e-12, atol=0)


def test_terms_and_active_terms_are_counted():
    """Of 11 images in classes of 5, 3, 2 and 1, 7 are no representatives."""
    batch = draw_batch(0)
    num_pairs = {}
    for name, config in LOSSES.items():
        for pairs in ("all", "representative"):
            config = dataclasses.replace(config, pairs=pairs)
            output = run(create(config), config, *batch)
            assert 0 <= output.num_active <= output.num_pairs
            num_pairs[name, pairs] = output.num_pairs.item()

    positives = 5 * 4 + 3 * 2 + 2 * 1
    triplets = 5 * 4 * 6 + 3 * 2 * 8 + 2 * 1 * 9
    assert num_pairs["contrastive", "all"] == num_pairs["margin", "all"] == 11 * 10
    assert num_pairs["contrastive", "representative"] == num_pairs["margin", "representative"] == 7 * 4
    assert num_pairs["triplet", "all"] == triplets
    assert num_pairs["triplet", "representative"] == 7 * 3
    assert (
        num_pairs["n_pair", "all"] == num_pairs["angular", "all"] == num_pairs["lifted_structure", "all"] == positives
    )
    assert num_pairs["n_pair", "representative"] == num_pairs["angular", "representative"] == 7
    assert (num_pairs["multi_similarity", "all"], num_pairs["multi_similarity", "representative"]) == (11, 7)
    assert (num_pairs["proxy_anchor", "all"], num_pairs["proxy_anchor", "representative"]) == (6, 4)
