import dataclasses

import pytest

from training.config import (
    AugmentationConfig,
    OptimiserConfig,
    ProjectionConfig,
    TrainingConfig,
    config_from_tables,
    load_config,
    load_preset,
    preset_names,
)
from training.errors import InvalidConfig
from training.losses.factory import LossConfig
from training.optimisation import learning_rate_factor


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_read(name):
    assert isinstance(load_preset(name), TrainingConfig)


def test_the_presets_are_complete():
    assert set(preset_names()) == {"tiny", "head", "small", "base", "paper-cub", "paper-cars", "paper-sop"}


@pytest.mark.parametrize("name", preset_names())
def test_a_stored_configuration_is_read_back_equal(name):
    config = load_preset(name)

    assert config_from_tables(config.to_json()) == config


def test_the_paper_preset_has_the_settings_of_the_paper():
    config = load_preset("paper-cub")

    assert (config.batches.classes_per_batch, config.batches.images_per_class) == (8, 4)
    assert (config.optimiser.name, config.optimiser.backbone_learning_rate) == ("adam", 1e-5)
    assert (config.projections.pull, config.projections.pull_weight) == ("coupled", 2e-4)
    assert config.network.freeze_batch_norm
    assert config.optimiser.clip_norm == 10


@pytest.mark.parametrize(
    ("override", "section", "knob", "value"),
    [
        ("steps=7", None, "steps", 7),
        ("projections.passes=4", "projections", "passes", 4.0),
        ("loss.name=triplet", "loss", "name", "triplet"),
        ("loss.name='triplet'", "loss", "name", "triplet"),
        ("evaluation.ks=[1, 10]", "evaluation", "ks", (1, 10)),
        ("network.freeze_batch_norm=false", "network", "freeze_batch_norm", False),
        ("network.backbone=timm/vit_small_patch16_224", "network", "backbone", "timm/vit_small_patch16_224"),
    ],
)
def test_an_override_changes_one_setting(override, section, knob, value):
    config = config_from_tables({}, [override])

    assert getattr(getattr(config, section) if section else config, knob) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=7", r"unknown setting 'stepz'; did you mean 'steps'\?"),
        ("projections.pasess=4", r"unknown setting 'projections.pasess'; did you mean 'passes'\?"),
        ("nothing.at_all=4", "unknown setting 'nothing'"),
        ("steps=many", "steps takes a value of type int, got 'many'"),
        ("steps=1.5", "steps takes a value of type int"),
        ("steps=true", "steps takes a value of type int"),
        ("steps=0", "steps must be at least 1"),
        ("optimiser.head_learning_rate=0", "optimiser.head_learning_rate must be above 0"),
        ("optimiser.head_learning_rate=nan", "optimiser.head_learning_rate must be above 0"),
        ("optimiser.name=lion", "optimiser.name must be one of adamw, adam, sgd; got 'lion'"),
        ("loss.name=hinge", "loss.name must be one of contrastive"),
        ("batches.images_per_class=1", "batches.images_per_class must be at least 2"),
        ("projections.pull_weight=-1", "projections.pull_weight must be at least 0"),
        ("evaluation.ks=[]", "evaluation.ks must be one or more numbers"),
        ("evaluation.ks=3", "evaluation.ks takes a list"),
        ("evaluation.metric=recall_at_3", "evaluation.metric must be one of auto"),
        ("steps", "not of the form"),
        ("steps.a=1", "'steps', which is not a section"),
        ("projections=1", "projections is a section of settings"),
    ],
)
def test_an_invalid_override_names_the_setting_and_the_remedy(override, message):
    with pytest.raises(InvalidConfig, match=message):
        config_from_tables({"steps": 10}, [override])


def test_a_decoupled_pull_of_one_is_refused():
    with pytest.raises(InvalidConfig, match="below 1"):
        ProjectionConfig(pull="decoupled", pull_weight=1.0)


def test_representative_pairs_need_representatives():
    with pytest.raises(InvalidConfig, match="pairs without representatives"):
        config_from_tables({"batches": {"representatives": "none"}, "loss": {"pairs": "representative"}})


def test_a_file_that_is_not_toml_is_named(tmp_path):
    path = tmp_path / "knobs.toml"
    path.write_text("steps = \n")

    with pytest.raises(InvalidConfig, match=r"knobs\.toml is not TOML"):
        load_config(path)


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(InvalidConfig, match=r"no preset 'huge'; presets are base, head"):
        load_preset("huge")


def test_the_steps_of_a_projection_are_passes_over_the_classes():
    assert ProjectionConfig(passes=8).steps_of(num_classes=61, classes_per_batch=8) == 64
    assert ProjectionConfig(steps=1).steps_of(num_classes=61, classes_per_batch=8) == 1


def test_every_setting_is_in_the_stored_configuration():
    stored = TrainingConfig().to_json()

    for field in dataclasses.fields(TrainingConfig):
        assert field.name in stored
    assert set(stored["loss"]) == {field.name for field in dataclasses.fields(LossConfig)}
    assert set(stored["augmentation"]) == {field.name for field in dataclasses.fields(AugmentationConfig)}


def test_learning_rates_warm_up_and_then_follow_the_schedule():
    config = OptimiserConfig(warm_up_steps=4, schedule="cosine")

    factors = [learning_rate_factor(step, 12, config) for step in range(12)]

    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors == sorted(factors[:4]) + sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.1
    assert learning_rate_factor(11, 12, OptimiserConfig()) == 1.0
