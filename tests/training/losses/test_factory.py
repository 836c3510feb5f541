import inspect
from typing import get_args

import pytest
import torch

from training.errors import InvalidConfig
from training.losses.factory import _CLASSES, _PARAMETERS, PRESETS, LossConfig, LossName, create_loss, pairs_for
from training.losses.margin import MarginLoss
from training.losses.mixed import MixedLoss
from training.losses.pairs import all_pairs
from training.losses.proxy_anchor import ProxyAnchorLoss

LABELS = torch.tensor([0, 0, 1, 1])
FLAGS = torch.tensor([True, False, True, False])


@pytest.mark.parametrize("pairs", ["all", "representative", "mixed"])
@pytest.mark.parametrize("name", get_args(LossName))
def test_every_name_makes_a_loss(name, pairs):
    config = LossConfig(name, pairs)
    embeddings = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)

    output = create_loss(config, num_classes=2, embedding_dim=8)(embeddings, LABELS, pairs_for(config, LABELS, FLAGS))

    assert output.value.shape == output.num_active.shape == output.num_pairs.shape == ()
    assert torch.isfinite(output.value)


@pytest.mark.parametrize("name", get_args(LossName))
def test_parameters_match_the_constructor_of_the_loss(name):
    """A configuration sets the parameters of the constructor, except sizes and the generator."""
    taken = set(inspect.signature(_CLASSES[name]).parameters) - {"num_classes", "embedding_dim", "generator"}

    assert taken == set(_PARAMETERS[name]) - {"beta_per_class"}


def test_parameters_reach_the_loss():
    loss = create_loss(LossConfig("margin", beta=1, margin=0.5, beta_per_class=True), num_classes=7, embedding_dim=8)

    assert isinstance(loss, MarginLoss)
    assert loss.margin == 0.5
    torch.testing.assert_close(loss.beta.data, torch.ones(7))


def test_mixed_weight_reaches_the_loss():
    loss = create_loss(LossConfig("margin", "mixed", mixed_weight=0.25), num_classes=7, embedding_dim=8)

    assert isinstance(loss, MixedLoss)
    assert loss.weight == 0.25


def test_proxies_come_from_the_generator_and_leave_the_global_one_alone():
    state = torch.get_rng_state()

    drawn = [
        create_loss(LossConfig("proxy_anchor"), 3, 4, torch.Generator().manual_seed(seed)).state_dict()["proxies"]
        for seed in (1, 1, 2)
    ]

    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_representative_pairs_need_no_learnt_proxies():
    assert not list(create_loss(LossConfig("proxy_anchor", "representative"), 3, 4).parameters())
    with pytest.raises(ValueError, match="needs num_classes and embedding_dim"):
        ProxyAnchorLoss()(torch.randn(4, 4), LABELS, all_pairs(LABELS))


def test_a_mixed_loss_refuses_other_pairs():
    loss = create_loss(LossConfig("contrastive", "mixed"), 2, 4)

    with pytest.raises(ValueError, match="got 'all' pairs"):
        loss(torch.randn(4, 4), LABELS, all_pairs(LABELS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "arcface"}, r"loss must be one of contrastive, .*proxy_anchor, got 'arcface'"),
        ({"pairs": "some"}, r"pairs must be one of all, representative, mixed, got 'some'"),
        ({"name": "triplet", "temperature": 0.1}, r"triplet takes no temperature, .*= 0.1; it takes margin, mining"),
        ({"name": "triplet", "mining": "hard"}, r"mining must be one of all, semi-hard, got 'hard'"),
        ({"name": "triplet", "margin": -0.1}, r"margin must be a number from 0 to 2, got -0.1"),
        ({"name": "triplet", "margin": float("nan")}, r"margin must be a number from 0 to 2, got nan"),
        ({"name": "triplet", "margin": True}, r"margin must be a number from 0 to 2, got True"),
        ({"name": "triplet", "margin": "0.1"}, r"margin must be a number from 0 to 2, got '0.1'"),
        ({"name": "margin", "beta_per_class": 1}, r"beta_per_class must be one of False, True, got 1"),
        ({"name": "n_pair", "temperature": 0}, r"temperature must be a number from 0.001 to 1000, got 0"),
        ({"name": "angular", "angle_degrees": 89}, r"angle_degrees must be a number from 1 to 60, got 89"),
        ({"name": "contrastive", "positive_margin": 0.5}, r"below negative_margin, got 0.5 and 0.3841"),
        ({"mixed_weight": -1}, r"mixed_weight must be a number from 0 to 1000, got -1"),
    ],
)
def test_an_invalid_setting_is_named_with_the_valid_ones(options, message):
    with pytest.raises(InvalidConfig, match=message):
        LossConfig(**options)


def test_presets_cover_every_loss_on_every_data_set():
    assert set(PRESETS) == {"cub", "cars", "sop"}
    for configs in PRESETS.values():
        assert set(configs) == set(get_args(LossName))
        assert all(name == config.name for name, config in configs.items())
    assert PRESETS["sop"]["contrastive"].negative_margin == 0.5130
