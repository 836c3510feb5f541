import numpy as np
import pytest
import torch

from training.errors import InvalidEmbeddings
from training.evaluation.metrics import RetrievalResult, map_at_r, r_precision, recall_at_k

NAN = np.nan


@pytest.fixture
def result():
    """Five queries of three classes; the last finds nothing."""
    return RetrievalResult(
        ks=(1, 4),
        query_labels=np.array([7, 7, 3, 3, 9]),
        num_relevant=np.array([2, 2, 1, 1, 0]),
        first_hit_rank=np.array([1, 3, 1, 9, 0]),
        r_precision=np.array([1, 0, 1, 0, NAN]),
        map_at_r=np.array([1, 0, 0.5, 0, NAN]),
        neighbour_ids=np.zeros((5, 0), np.int64),
        neighbour_scores=np.zeros((5, 0), np.float32),
    )


def test_equals_the_examples_of_the_paper():
    """arXiv:2003.08505, figure 4's kind: R = 10, only the first; the first and the last; the first five."""
    is_hit = torch.tensor([[1] + [0] * 9, [1] + [0] * 8 + [1], [1] * 5 + [0] * 5, [1] * 10]).bool()
    num_relevant = torch.full((4,), 10)

    assert r_precision(is_hit, num_relevant).tolist() == pytest.approx([0.1, 0.2, 0.5, 1.0])
    assert map_at_r(is_hit, num_relevant).tolist() == pytest.approx([0.1, 0.12, 0.5, 1.0])


def test_hits_after_rank_r_do_not_count():
    is_hit = torch.tensor([[0, 1, 1, 1]]).bool()

    assert r_precision(is_hit, torch.tensor([2])).item() == 0.5
    assert map_at_r(is_hit, torch.tensor([2])).item() == 0.25


def test_recall_at_k_is_nan_without_relevant_images():
    np.testing.assert_array_equal(recall_at_k(np.array([1, 2, 3, 0]), 2), [1, 1, 0, NAN])
    with pytest.raises(ValueError, match="got 0"):
        recall_at_k(np.array([1]), 0)


def test_averages_exclude_queries_without_relevant_images(result):
    summary = result.summary()

    assert (summary.num_queries, summary.num_left_out) == (4, 1)
    assert summary.recall == {1: 0.5, 4: 0.75}
    assert (summary.r_precision, summary.map_at_r) == (0.5, 0.375)


def test_metrics_have_the_names_used_in_files(result):
    assert result.summary().metrics() == {
        "recall_at_1": 0.5, "recall_at_4": 0.75, "r_precision": 0.5, "map_at_r": 0.375,
        "num_queries": 4, "num_left_out": 1,
    }  # fmt: skip


def test_averages_over_a_part(result):
    part = result.subset(np.array([True, True, False, False, True]))

    assert (part.num_queries, part.num_left_out) == (2, 1)
    assert part.recall == {1: 0.5, 4: 1.0}


def test_a_part_without_queries_has_no_figures(result):
    part = result.subset(np.zeros(5, bool))

    assert part.num_queries == part.num_left_out == 0
    assert np.isnan([part.recall[1], part.r_precision, part.map_at_r]).all()


def test_averages_over_each_class(result):
    classes = result.per_class()

    assert list(classes) == [3, 7]
    assert classes[3].recall == {1: 0.5, 4: 0.5}
    assert classes[7].recall == {1: 0.5, 4: 1.0}
    assert classes[7].map_at_r == 0.5


def test_classes_may_have_names(result):
    assert list(result.per_class(["melon", "melon", "fig", "fig", "plum"])) == ["fig", "melon"]


@pytest.mark.parametrize("mask", [np.ones(4, bool), np.arange(5)], ids=["short", "indices"])
def test_refuses_an_invalid_mask(result, mask):
    with pytest.raises(InvalidEmbeddings, match="one bool per query"):
        result.subset(mask)


def test_refuses_names_for_other_queries(result):
    with pytest.raises(InvalidEmbeddings, match="4 labels for 5 queries"):
        result.per_class(["melon"] * 4)
