import pytest
import torch
import torch.nn.functional as F

from training.losses.distances import (
    NEGLIGIBLE,
    cosine_similarities,
    euclidean_distances,
    log_one_plus_exp,
    masked_log_sum_exp,
    mean_of_active,
)


def test_distances_equal_cdist():
    embeddings = F.normalize(torch.randn(9, 6, dtype=torch.float64), dim=1)

    distances = euclidean_distances(embeddings)

    off_diagonal = ~torch.eye(9, dtype=torch.bool)
    torch.testing.assert_close(distances[off_diagonal], torch.cdist(embeddings, embeddings)[off_diagonal])
    assert distances.dtype == torch.float64


def test_the_distance_of_equal_rows_is_the_root_of_the_clamp_without_a_gradient():
    embeddings = F.normalize(torch.randn(1, 6), dim=1).repeat(3, 1).requires_grad_()

    distances = euclidean_distances(embeddings)
    distances.sum().backward()

    torch.testing.assert_close(distances, torch.full((3, 3), 1e-4), rtol=1e-6, atol=0)
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32_also_under_autocast(dtype):
    embeddings = F.normalize(torch.randn(9, 6), dim=1).to(dtype)
    embeddings[1] = embeddings[0]

    with torch.autocast("cpu", torch.bfloat16):
        distances = euclidean_distances(embeddings)
        cosines = cosine_similarities(embeddings, embeddings)

    assert distances.dtype == cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, embeddings.float() @ embeddings.float().T, rtol=0, atol=1e-6)
    assert distances[0, 1] < 1e-3


def test_log_sum_exp_uses_the_masked_values_only():
    values = torch.tensor([[1.0, 500.0, 2.0], [3.0, 4.0, 5.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])

    sums = masked_log_sum_exp(values, mask, dim=1)
    log_one_plus_exp(sums).sum().backward()

    torch.testing.assert_close(sums[0], torch.tensor([1.0, 2.0]).logsumexp(0))
    assert sums[1] <= NEGLIGIBLE * 0.99
    assert values.grad is not None
    assert values.grad.bool().tolist() == [[True, False, True], [False, False, False]]


def test_mean_of_active_excludes_zeros():
    mean, num_active = mean_of_active(torch.tensor([[0.0, 2.0], [4.0, 0.0]]))

    assert (mean.item(), num_active.item()) == (3.0, 2)


def test_mean_of_nothing_active_is_zero_without_a_gradient():
    values = torch.tensor([-1.0, -2.0], requires_grad=True)

    mean, num_active = mean_of_active(values.relu())
    mean.backward()

    assert (mean.item(), num_active.item()) == (0.0, 0)
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]
