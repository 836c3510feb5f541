"""The invariants of docs/method.md §7 on a whole loop, with a problem that is learnt in a second."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from embedding.model import Architecture, create_model, with_linear_head
from tests.training.clouds import CONFIG, loop_parts, weights, with_knobs
from training.errors import TrainingDiverged
from training.loop import TrainingLoop
from training.loop_parts import LoopHooks
from training.optimisation import set_training_mode


def run(config=CONFIG, **options):
    """Run a loop; returns its parts and all records."""
    parts = loop_parts(config, **options)
    records: list[dict[str, Any]] = []
    result = TrainingLoop(parts, LoopHooks(record=records.append)).run()
    return parts, result, records


def validated(parts):
    assert parts.validate is not None
    return parts.validate()["map_at_r"]


def steps_of(records, kind="step"):
    return [record for record in records if record["kind"] == kind]


def test_training_raises_the_metric_on_unseen_classes():
    before = validated(loop_parts())

    parts, _, _ = run(with_knobs(steps=150))

    assert validated(parts) > before + 0.3


def test_projections_of_one_step_are_plain_training_bit_for_bit():
    """Method test 1: λ = 0, all pairs, no mining, T = 1, representatives from the same queue."""
    mining_off = {"hard_class_fraction": 0.0}
    plain = with_knobs(batches={"representatives": "none", **mining_off})
    control = with_knobs(
        batches={"representatives": "queue", "share_queue": True, **mining_off}, projections={"steps": 1}
    )

    first, _, records = run(plain)
    second, _, other_records = run(control)

    assert torch.equal(weights(first), weights(second))
    losses = [[record["loss"] for record in steps_of(of)] for of in (records, other_records)]
    assert losses[0] == losses[1]


def test_holding_representatives_is_not_plain_training():
    """Shows that the equality in the previous test is not trivial."""
    first, _, _ = run(with_knobs(batches={"representatives": "none"}))
    second, _, _ = run(with_knobs(batches={"representatives": "queue"}))

    assert not torch.equal(weights(first), weights(second))


def test_a_very_large_pull_holds_the_weights_at_the_start_of_the_second_projection():
    held = with_knobs(
        steps=24,
        projections={"pull": "decoupled", "pull_weight": 0.9999, "steps": 8},
        evaluation={"every": 100, "keep": "last"},
    )
    free = with_knobs(held, steps=8, projections={"pull": "none", "pull_weight": 0.0})

    after_three, _, _ = run(held)
    after_one, _, _ = run(free)

    drift = (weights(after_three) - weights(after_one)).norm() / weights(after_one).norm()
    assert drift < 1e-4


@pytest.mark.parametrize("pull", ["coupled", "decoupled"])
def test_a_stronger_pull_has_a_larger_ratio_and_less_drift(pull):
    ratios, drifts = [], []
    for weight in (1e-4, 1e-2, 0.3):
        config = with_knobs(steps=60, projections={"pull": pull, "pull_weight": weight, "steps": 20})
        records = [record for record in steps_of(run(config)[2]) if record["projection"] > 0]
        ratios.append(np.mean([record["pull_ratio"] for record in records]))
        drifts.append(np.mean([record["drift"] for record in records]))

    assert ratios == sorted(ratios)
    assert drifts[0] > drifts[2]


def test_a_pull_without_effect_gives_a_warning():
    config = with_knobs(
        steps=60,
        log_every=1,
        projections={"pull": "coupled", "pull_weight": 1e-7, "steps": 12},
        evaluation={"every": 60},
    )

    _, result, records = run(config)

    assert any("inert" in warning for warning in result.warnings)
    assert len(steps_of(records, "warning")) == 1


def test_a_collapse_gives_a_warning():
    parts = loop_parts(with_knobs(steps=120, evaluation={"every": 120}, projections={"pull": "none"}))
    with torch.no_grad():
        for parameter in parts.model.head.parameters():
            # Zero weights and an equal bias map every image to the same point.
            parameter.fill_(float(parameter.ndim == 1))
    # A tiny learning rate keeps the embeddings at that point.
    frozen = replace(parts.config, optimiser=replace(parts.config.optimiser, head_learning_rate=1e-12))

    result = TrainingLoop(replace(parts, config=frozen)).run()

    assert any(warning.startswith("collapse") for warning in result.warnings)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"projections": {"pull": "coupled", "pull_weight": 0.1, "steps": 7}},
        {"projections": {"pull": "decoupled", "pull_weight": 0.01, "steps": 7, "anchor": "best"}},
        {"projections": {"until": "metric", "patience": 1}, "evaluation": {"every": 3}},
        {"projections": {"steps": 9, "relaxation": 0.5, "final_relaxation": 0.5}},
        {"batches": {"representatives": "alternate", "refresh_table": True}, "projections": {"steps": 6}},
        {"batches": {"representatives": "none"}},
        {"loss": {"name": "proxy_anchor"}, "optimiser": {"name": "sgd", "head_learning_rate": 0.1}},
        {"loss": {"name": "margin"}, "optimiser": {"schedule": "cosine", "warm_up_steps": 9, "head_warm_up_steps": 25}},
    ],
    ids=lambda sections: "-".join(sections) or "default",
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_run(sections):
    """Method §6: training 2k steps equals training k, stopping, resuming k, bit for bit."""
    config = with_knobs(**sections)
    whole, expected, records = run(config)

    for stop_at in (13, 20):
        resumed, result, later_records = stopped_and_resumed(config, stop_at)
        assert torch.equal(weights(resumed), weights(whole))
        assert result == expected
        assert without_times(later_records) == without_times(records)


def stopped_and_resumed(config, stop_at):
    """Stop a run after a step and resume it from its state; returns the parts, the result and all records."""
    saved = {}
    parts = loop_parts(config)
    first_records: list[dict[str, Any]] = []
    steps_done = iter(range(1, 1000))
    first = TrainingLoop(
        parts,
        LoopHooks(
            record=first_records.append,
            save=lambda step, state: saved.update({step: state}),
            should_stop=lambda: next(steps_done) == stop_at,
        ),
    ).run()
    assert (first.status, first.steps, list(saved)) == ("interrupted", stop_at, [stop_at])
    torch.manual_seed(12345)  # a new process does not have the generators of the old one
    resumed = loop_parts(config)
    later_records: list[dict[str, Any]] = []
    loop = TrainingLoop(resumed, LoopHooks(record=later_records.append))
    loop.restore(saved[stop_at])
    result = loop.run()
    return resumed, result, first_records + later_records


def without_times(records):
    # NaN is not equal to itself.
    return [
        {
            name: "nan" if isinstance(value, float) and math.isnan(value) else value
            for name, value in record.items()
            if name != "seconds"
        }
        for record in records
    ]


def test_equal_seeds_train_alike_and_others_do_not():
    first, second, third = (run(with_knobs(seed=seed))[0] for seed in (1, 1, 2))

    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(third))


def test_the_best_weights_are_kept():
    config = with_knobs(steps=60, evaluation={"every": 10, "keep": "best"})

    parts, result, records = run(config)

    metrics = [record["map_at_r"] for record in steps_of(records, "evaluation")]
    assert validated(parts) == max(metrics) == result.best_metric


def test_a_run_ends_early_when_the_metric_stops_improving():
    config = with_knobs(steps=500, evaluation={"every": 5, "patience": 2}, optimiser={"head_learning_rate": 1e-9})

    _, result, _ = run(config)

    assert result.status == "stopped_early"
    assert result.steps < 500


def test_the_final_relaxation_is_chosen_on_validation():
    config = with_knobs(steps=60, projections={"choose_final_relaxation": True})

    parts, result, records = run(config)

    (tried,) = steps_of(records, "relaxation")
    assert tried["metrics"][str(result.final_relaxation)] == max(tried["metrics"].values())
    assert validated(parts) == pytest.approx(max(tried["metrics"].values()))


def test_a_loss_of_nan_ends_the_run_with_a_remedy():
    parts = loop_parts()
    with torch.no_grad():
        next(parts.model.head.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingDiverged, match="learning_rate"):
        TrainingLoop(parts).run()


def test_a_diverged_state_never_replaces_a_good_one():
    """The weights become NaN between logged steps, and the next state would be worthless."""
    parts = loop_parts(with_knobs(steps=20, log_every=100, save_every=4, evaluation={"every": 100}))
    saved: dict[int, bool] = {}

    def save(step, state):
        saved[step] = all(bool(tensor.isfinite().all()) for tensor in state["network"].values())
        if step == 4:
            with torch.no_grad():
                next(parts.model.head.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingDiverged, match="state saved last, if any, is kept"):
        TrainingLoop(parts, LoopHooks(save=save)).run()

    assert saved == {4: True}


def test_weights_that_become_nan_after_the_last_log_end_the_run():
    parts = loop_parts(with_knobs(steps=8, log_every=5), validated=False)

    def should_stop():
        with torch.no_grad():
            next(parts.model.head.parameters()).fill_(torch.nan)
        return False

    with pytest.raises(TrainingDiverged):
        TrainingLoop(parts, LoopHooks(should_stop=should_stop)).run()


def test_frozen_batch_norm_keeps_its_statistics_in_training():
    """Method test 7; scale and shift are trained by default."""
    model, _ = create_model(Architecture("conv4"), pretrained=False)
    model = with_linear_head(model, 8)
    network = replace(CONFIG.network, train="all", freeze_batch_norm=True)
    set_training_mode(model, network)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    model(torch.randn(8, 3, 32, 32)).sum().backward()

    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    set_training_mode(model, replace(network, freeze_batch_norm=False))
    model(torch.randn(8, 3, 32, 32))
    assert not all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
