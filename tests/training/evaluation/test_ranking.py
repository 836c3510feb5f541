import numpy as np
import pytest
import torch

from training.evaluation.ranking import LabelledGallery, first_hit_ranks, rank


@pytest.mark.parametrize("num_scores", [2, 12, 500])
@pytest.mark.parametrize("num_ranks", [1, 2, 7, 60, 500])
def test_equal_scores_are_ranked_by_index(num_scores, num_ranks):
    num_ranks = min(num_ranks, num_scores)
    scores = np.random.default_rng(0).integers(0, 12, (1000, num_scores)).astype(np.float32)

    ranked = rank(torch.from_numpy(scores), num_ranks)

    assert ranked.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :num_ranks].tolist()


@pytest.mark.parametrize("num_ranks", [1, 3, 70])
def test_a_tie_with_the_image_after_the_last_rank_is_resolved(num_ranks):
    """All scores differ except at the last rank, which has three equal scores."""
    rng = np.random.default_rng(0)
    falling = np.concatenate([np.arange(2 * num_ranks, num_ranks, -1), [num_ranks + 1] * 2, np.zeros(600)])
    scores = np.stack([rng.permutation(falling) for _ in range(100)]).astype(np.float32)

    ranked = rank(torch.from_numpy(scores), num_ranks)

    assert ranked.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :num_ranks].tolist()


@pytest.mark.parametrize("num_known", [1, 5])
def test_the_first_hit_is_found_at_any_depth(num_known):
    """With many ties and classes of different sizes; the gallery lacks the class of the last query."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), np.arange(1, 41))
    scores = rng.integers(0, 30, (200, len(labels))).astype(np.float32)
    wanted = np.append(rng.integers(0, 40, 199), 99)
    ranking = np.argsort(-scores, axis=1, kind="stable")
    is_hit = labels[ranking] == wanted[:, None]
    expected = np.where(is_hit.any(axis=1), is_hit.argmax(axis=1) + 1, 0)
    gallery = LabelledGallery(torch.zeros(len(labels), 1), labels)
    codes = gallery.codes_of(wanted)

    found = first_hit_ranks(
        torch.from_numpy(scores),
        torch.from_numpy(is_hit[:, :num_known]),
        torch.from_numpy(codes),
        torch.from_numpy(gallery.counts_of(codes) > 0),
        gallery,
    )

    assert found.tolist() == expected.tolist()
    assert expected.max() > 100
