"""On all pairs the losses equal those of pytorch-metric-learning with the same definition, within 1e-9.

Not compared, as definitions differ: its NPairsLoss takes one positive per class, does not normalise and penalises
lengths (its NTXentLoss equals ours); its GeneralizedLiftedStructureLoss sums over positives inside a logarithm (its
LiftedStructureLoss equals ours).
"""

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners

from tests.training.losses.batches import EMBEDDING_DIM, NUM_CLASSES, create, draw_batch
from training.losses.factory import LossConfig
from training.losses.margin import MarginLoss
from training.losses.pairs import Pairs, all_pairs

SEMI_HARD = miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard")
CASES = {
    "contrastive": (
        LossConfig("contrastive", positive_margin=0.4, negative_margin=1.3),
        losses.ContrastiveLoss(pos_margin=0.4, neg_margin=1.3),
        None,
    ),
    "triplet": (LossConfig("triplet", margin=0.3), losses.TripletMarginLoss(margin=0.3), None),
    "triplet semi-hard": (
        LossConfig("triplet", margin=0.3, mining="semi-hard"),
        losses.TripletMarginLoss(margin=0.3),
        SEMI_HARD,
    ),
    # Its mean is over every row of the batch; here every row has a pair.
    "multi_similarity": (
        LossConfig("multi_similarity"),
        losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5),
        None,
    ),
    "lifted_structure": (LossConfig("lifted_structure"), losses.LiftedStructureLoss(neg_margin=1), None),
    "n_pair": (LossConfig("n_pair"), losses.NTXentLoss(temperature=0.11), None),
    "angular": (LossConfig("angular", angle_degrees=40), losses.AngularLoss(alpha=40), None),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_reference(name, seed):
    config, peer, miner = CASES[name]
    raw, labels, _ = draw_batch(seed)
    embeddings = F.normalize(raw, dim=1)

    value = create(config)(embeddings, labels, all_pairs(labels)).value
    expected = peer(embeddings, labels, miner(embeddings, labels) if miner else None)

    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(value, raw, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected, raw)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_proxy_anchor_equals_the_reference(seed):
    loss = create(LossConfig("proxy_anchor"), seed)
    peer = losses.ProxyAnchorLoss(NUM_CLASSES, EMBEDDING_DIM, margin=0.1, alpha=32).double()
    with torch.no_grad():
        peer.proxies.copy_(loss.proxies)
    raw, labels, _ = draw_batch(seed)
    embeddings = F.normalize(raw, dim=1)

    value = loss(embeddings, labels, all_pairs(labels)).value
    expected = peer(embeddings, labels)

    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(value, [raw, loss.proxies], retain_graph=True)
    expected_gradients = torch.autograd.grad(expected, [raw, peer.proxies])
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_classes", [None, NUM_CLASSES])
def test_margin_equals_the_reference_if_triplets_count_each_pair_once(num_classes):
    """The reference averages over triplets, which repeat pairs.

    With a class of 5 against 4 others, rows have as many positives as negatives, so that triplets can contain each
    pair once.
    """
    labels = torch.tensor([1, 1, 1, 1, 1, 0, 0, 2, 3])
    raw = torch.randn(len(labels), EMBEDDING_DIM, dtype=torch.float64, requires_grad=True)
    embeddings = F.normalize(raw, dim=1)
    plain = all_pairs(labels)
    allowed = plain.allowed_BB & (labels == 1).unsqueeze(1)
    triplets = [(i, j, k) for i in range(5) for j, k in zip([j for j in range(5) if j != i], range(5, 9), strict=True)]
    loss = MarginLoss(1.0, 0.2, num_classes).double()
    peer = losses.MarginLoss(0.2, beta=1.0, learn_beta=True, num_classes=num_classes).double()

    value = loss(embeddings, labels, Pairs("all", allowed, plain.has_same_label_BB, plain.is_representative_B)).value
    expected = peer(embeddings, labels, tuple(torch.tensor(triplets).T))

    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(value, [raw, loss.beta], retain_graph=True)
    expected_gradients = torch.autograd.grad(expected, [raw, peer.beta])
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-9)
    assert gradients[1].abs().max() > 0
