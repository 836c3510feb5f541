import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from training.report.diagnostics import CollapseWatch, PullWatch, diagnose


def batch(seed: int, classes: int, per_class: int, dimension: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    order = torch.randperm(len(labels), generator=generator)
    return F.normalize(torch.randn(len(labels), dimension, generator=generator), dim=1), labels[order]


@given(seed=st.integers(0, 1000), classes=st.integers(2, 6), per_class=st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_quantiles_equal_those_of_a_nested_loop(seed, classes, per_class):
    embeddings, labels = batch(seed, classes, per_class)

    figures = diagnose(embeddings, labels)

    distances: dict[str, list[torch.Tensor]] = {"positive": [], "negative": []}
    for i in range(len(labels)):
        for j in range(i):
            sign = "positive" if labels[i] == labels[j] else "negative"
            distances[sign].append((embeddings[i] - embeddings[j]).norm())
    for sign, values in distances.items():
        for name, quantile in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9)):
            expected = torch.stack(values).quantile(quantile)
            torch.testing.assert_close(figures[f"{sign}_distance_{name}"], expected, atol=1e-5, rtol=0)


def test_the_order_of_a_batch_does_not_matter():
    embeddings, labels = batch(0, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))

    figures, permuted = diagnose(embeddings, labels), diagnose(embeddings[order], labels[order])

    torch.testing.assert_close(figures, permuted, atol=1e-5, rtol=0)


def test_equal_embeddings_have_spread_and_distances_of_exactly_zero():
    embeddings = F.normalize(torch.ones(8, 32), dim=1)

    figures = diagnose(embeddings, torch.arange(8) // 2)

    assert all(value == 0 for value in figures.values())


def test_spread_of_unit_vectors_is_one_minus_the_squared_length_of_their_mean():
    embeddings, labels = batch(3, 4, 4)

    spread = diagnose(embeddings, labels)["embedding_spread"]

    torch.testing.assert_close(spread, 1 - embeddings.mean(dim=0).square().sum(), atol=1e-6, rtol=0)


def test_opposite_embeddings_have_a_spread_of_one():
    embeddings = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])

    assert diagnose(embeddings, torch.tensor([0, 1]))["embedding_spread"] == 1


def test_figures_are_scalars_without_gradient_whatever_the_precision():
    embeddings, labels = batch(0, 3, 2)

    figures = diagnose(embeddings.bfloat16().requires_grad_(), labels)

    assert all(value.shape == () and value.dtype == torch.float32 for value in figures.values())
    assert not any(value.requires_grad for value in figures.values())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_missing_kind_of_pair_is_nan(size):
    embeddings, _ = batch(0, size, 1)

    figures = diagnose(embeddings, torch.arange(size))

    assert figures["positive_distance_q50"].isnan()
    assert figures["negative_distance_q50"].isnan() == (size == 1)


def test_refuses_labels_of_another_length():
    with pytest.raises(ValueError, match=r"got \[4, 8\] and \[3\]"):
        diagnose(torch.zeros(4, 8), torch.zeros(3))


def test_no_value_is_read_from_the_device():
    """A meta tensor has no values, so reading one fails."""
    figures = diagnose(torch.empty(8, 4, device="meta"), torch.empty(8, dtype=torch.int64, device="meta"))

    assert all(value.device.type == "meta" for value in figures.values())


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    embeddings, labels = (tensor.cuda() for tensor in batch(0, 8, 4))
    diagnose(embeddings, labels)

    torch.cuda.set_sync_debug_mode("error")
    try:
        diagnose(embeddings, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_collapse_is_reported_once_with_a_remedy():
    watch = CollapseWatch(patience=3)

    warnings = [watch.update(0.003, 0.4) for _ in range(10)]

    assert [index for index, warning in enumerate(warnings) if warning] == [2]
    assert "collapse" in str(warnings[2])
    assert "spread 0.003" in str(warnings[2])
    assert "lower the learning rate" in str(warnings[2])
    assert "\n" not in str(warnings[2])


def test_negatives_at_zero_distance_are_a_collapse():
    assert CollapseWatch(patience=1).update(0.3, 0.02)
    assert CollapseWatch(patience=1).update(None, 0.02)


def test_a_healthy_step_resets_the_count_of_a_collapse():
    watch = CollapseWatch(patience=3)

    warnings = [watch.update(spread, None) for spread in (0.001, 0.001, 0.5, 0.001, 0.001, None)]

    assert not any(warnings)


def test_a_pull_without_effect_is_reported_once():
    watch = PullWatch(patience=2)

    warnings = [watch.update(2e-6) for _ in range(5)]

    assert [index for index, warning in enumerate(warnings) if warning] == [1]
    assert "inert" in str(warnings[1])
    assert "raise projections.pull_weight" in str(warnings[1])


def test_a_pull_that_is_off_or_effective_gives_no_warning():
    watch = PullWatch(patience=2)

    ratios = [None, 0.0, None, 0.0, 1e-5, 0.02, 1e-5, 0.0, 0.05]

    assert not any(watch.update(ratio) for ratio in ratios)


def test_steps_without_a_pull_do_not_interrupt_the_count():
    watch = PullWatch(patience=2)

    assert not any(watch.update(ratio) for ratio in (1e-5, 0.0, None))
    assert watch.update(1e-5)


def test_a_watch_continues_from_its_state():
    first, second = CollapseWatch(patience=3), CollapseWatch(patience=3)
    for _ in range(2):
        first.update(0.0, 0.0)

    second.load_state_dict(first.state_dict())

    assert second.update(0.0, 0.0)
    first.load_state_dict(second.state_dict())
    assert not any(first.update(0.0, 0.0) for _ in range(5))


def test_patience_is_at_least_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PullWatch(patience=0)
