import torch

from training.losses.pairs import all_pairs, representative_pairs


def test_all_pairs_are_all_but_an_image_with_itself():
    pairs = all_pairs(torch.tensor([4, 4, 7]))

    assert pairs.kind == "all"
    assert pairs.allowed_BB.tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    assert pairs.positive_BB.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert pairs.negative_BB.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    assert not pairs.is_representative_B.any()


def test_representative_pairs_lead_from_samples_to_representatives():
    is_representative = torch.tensor([True, False, True, False])

    pairs = representative_pairs(torch.tensor([4, 4, 7, 7]), is_representative)

    nothing = [False] * 4
    assert pairs.kind == "representative"
    assert pairs.positive_BB.tolist() == [nothing, [True, False, False, False], nothing, [False, False, True, False]]
    assert pairs.negative_BB.tolist() == [nothing, [False, False, True, False], nothing, [True, False, False, False]]
    assert pairs.is_representative_B is is_representative


def test_numbers_of_representative_pairs_equal_those_of_the_method():
    """P·(m−1) positives and P·(P−1)·(m−1) negatives."""
    num_classes, num_images = 5, 4
    labels = torch.arange(num_classes).repeat_interleave(num_images)

    pairs = representative_pairs(labels, torch.arange(len(labels)) % num_images == 0)

    assert pairs.positive_BB.sum() == num_classes * (num_images - 1)
    assert pairs.negative_BB.sum() == num_classes * (num_classes - 1) * (num_images - 1)
