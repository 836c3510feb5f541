import math

import pytest
import torch

from training.config import ProjectionConfig
from training.projections import Projections, relax


def weights():
    return [torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor([[3.0], [4.0]]))]


def started(parameters, steps=4, *, begun=2, **knobs):
    """Projections in their second projection, the first with a pull."""
    projections = Projections(ProjectionConfig(**knobs), parameters, steps)
    for _ in range(begun):
        projections.begin()
    return projections


def drift_of(projections):
    drift = projections.drift()
    assert drift is not None
    return drift


def move(parameters, by=0.5):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(by)


def test_right_after_anchoring_the_pull_is_zero():
    parameters = weights()
    projections = started(parameters, pull="coupled", pull_weight=0.3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)

    projections.add_pull()

    assert projections.pull_length().item() == 0
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in parameters)


def test_the_pull_is_the_weight_times_the_drift():
    parameters = weights()
    projections = started(parameters, pull="coupled", pull_weight=0.25)
    move(parameters, 0.5)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)

    projections.add_pull()

    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 0.125)) for parameter in parameters)
    assert projections.pull_length().item() == pytest.approx(0.125 * 2)


def test_the_first_projection_has_no_pull():
    parameters = weights()
    projections = started(parameters, begun=1, pull="coupled", pull_weight=0.3)
    move(parameters)

    assert not projections.is_coupled
    assert projections.weight == 0


def test_the_weight_decays_from_projection_to_projection():
    projections = started(weights(), begun=1, pull="coupled", pull_weight=0.5, pull_decay=0.5)

    seen = []
    for _ in range(3):
        projections.begin()
        seen.append(projections.weight)

    assert seen == [0.25, 0.125, 0.0625]


def test_the_anchor_is_a_copy_and_not_zero():
    """With anchor weights of zero the pull would be weight decay; following the weights it would vanish."""
    parameters = weights()
    projections = started(parameters, pull="decoupled", pull_weight=0.5)
    move(parameters, 2.0)

    projections.pull_back()

    assert parameters[0].tolist() == [2.0, 3.0]


def test_a_very_large_pull_holds_the_weights_at_the_anchor():
    parameter = torch.nn.Parameter(torch.tensor([5.0]))
    projections = started([parameter], pull="decoupled", pull_weight=0.999)
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(50):
        parameter.grad = 2 * parameter.detach()
        optimiser.step()
        projections.pull_back()

    assert parameter.item() == pytest.approx(5.0, abs=2e-3)


def test_weights_without_a_gradient_are_not_pulled():
    """For example the backbone during the warm-up of the head."""
    parameters = weights()
    projections = started(parameters, pull="coupled", pull_weight=0.5)
    move(parameters)
    parameters[1].grad = torch.zeros_like(parameters[1])

    projections.add_pull()

    assert parameters[0].grad is None
    assert parameters[1].grad.tolist() == [[0.25], [0.25]]


def test_a_projection_lasts_t_steps():
    projections = started(weights(), steps=3)

    ends = []
    for _ in range(3):
        projections.count_step()
        ends.append(projections.has_ended)

    assert ends == [False, False, True]


def test_a_projection_until_the_metric_stops_improving():
    projections = started(weights(), until="metric", patience=2)

    ends = []
    for metric in (0.1, 0.3, 0.2, 0.3):
        projections.count_step()
        projections.observe(metric)
        ends.append(projections.has_ended)

    assert ends == [False, False, False, True]


def test_the_next_anchor_may_be_the_best_weights_of_a_projection():
    parameters = weights()
    projections = started(parameters, anchor="best")
    move(parameters, 1.0)
    projections.observe(0.9)
    move(parameters, 1.0)
    projections.observe(0.5)

    projections.end()
    projections.begin()

    assert parameters[0].tolist() == [2.0, 3.0]
    drift = projections.drift()
    assert drift is not None
    assert float(drift) == 0


def test_a_relaxed_projection_goes_part_of_the_way():
    parameters = weights()
    projections = started(parameters, relaxation=0.25)
    move(parameters, 4.0)

    projections.end()

    assert parameters[0].tolist() == [2.0, 3.0]


def test_a_projection_without_relaxation_changes_no_bit():
    parameters = weights()
    projections = started(parameters)
    move(parameters, 1 / 3)
    before = [parameter.clone() for parameter in parameters]

    projections.end()

    assert all(torch.equal(parameter, copy) for parameter, copy in zip(parameters, before, strict=True))


def test_relax_moves_the_share_of_the_way():
    end, start = [torch.tensor([4.0])], [torch.tensor([0.0])]

    relax(end, start, 0.75)

    assert end[0].item() == 3.0


def test_drift_is_relative_to_the_anchor():
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    projections = started([parameter])
    with torch.no_grad():
        parameter.add_(torch.tensor([0.3, 0.4]))

    drift = projections.drift()
    assert drift is not None
    assert float(drift) == pytest.approx(0.1)


def test_restored_projections_continue_alike():
    parameters = weights()
    projections = started(parameters, steps=3, pull="decoupled", pull_weight=0.5, anchor="best")
    move(parameters)
    projections.observe(0.4)
    projections.count_step()
    state = projections.state()

    other = Projections(
        ProjectionConfig(pull="decoupled", pull_weight=0.5, anchor="best"), [p.clone() for p in parameters], 3
    )
    other.restore(state)

    assert (other.number, other.weight) == (1, 0.5)
    assert torch.equal(drift_of(other), drift_of(projections))
    for made in (projections, other):
        made.count_step()
        made.count_step()
        assert made.has_ended


def test_without_representatives_there_are_no_projections():
    parameters = weights()
    projections = Projections(ProjectionConfig(), parameters, 1, is_active=False)
    projections.count_step()

    assert not projections.has_ended
    assert projections.drift() is None


# Half-spaces n·x <= b around the triangle with corners (1, 1), (2, 1) and (1, 2).
HALF_SPACES = [((-1.0, 0.0), -1.0), ((0.0, -1.0), -1.0), ((1.0, 1.0), 3.0)]


@pytest.mark.parametrize(("start", "relaxation"), [((-3.0, 4.0), 1.0), ((6.0, -2.0), 0.7), ((5.0, 5.0), 1.0)])
def test_on_half_spaces_the_loop_ends_in_their_intersection(start, relaxation):
    """Method test 5: each projection enforces one half-space, as a selection enforces one set of pairs."""
    point = torch.nn.Parameter(torch.tensor(start))
    config = ProjectionConfig(pull="coupled", pull_weight=0.05, relaxation=relaxation)
    projections = Projections(config, [point], 30)
    optimiser = torch.optim.SGD([point], lr=0.1)
    for number in range(120):
        projections.begin()
        normal, bound = HALF_SPACES[number % 3]
        while not projections.has_ended:
            optimiser.zero_grad()
            violation = (torch.tensor(normal) @ point - bound).clamp(min=0)
            (violation**2).backward()
            projections.add_pull()
            optimiser.step()
            projections.count_step()
        projections.end()

    for normal, bound in HALF_SPACES:
        assert float(torch.tensor(normal) @ point.detach()) - bound < 0.02
    assert math.hypot(*(point.detach() - torch.tensor(start)).tolist()) < 12
