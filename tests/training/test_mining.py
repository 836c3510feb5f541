import numpy as np
import pytest
import torch

from training.mining import RepresentativeTable, choose_classes

CPU = torch.device("cpu")


def table_of(angles, *, missing=()):
    """A table of one unit vector in the plane per class, with some rows empty."""
    embeddings = torch.tensor([[np.cos(a), np.sin(a)] for a in angles], dtype=torch.float32)
    table = RepresentativeTable(len(angles), 2, CPU)
    filled = np.array([c for c in range(len(angles)) if c not in missing], np.int64)
    table.refresh(filled, embeddings[torch.from_numpy(filled)], step=0)
    return table


def test_the_nearest_classes_come_first_and_never_the_seed_itself():
    table = table_of([0.0, 0.5, 0.1, 2.0])

    nearest = table.request_nearest(np.array([0, 3]), 3).wait()

    assert nearest.tolist() == [[2, 1, 0], [1, 2, 0]] or nearest[:, :2].tolist() == [[2, 1], [1, 2]]


def test_empty_rows_are_no_candidates():
    table = table_of([0.0, 0.1, 0.5, 2.0], missing=(1,))

    assert table.request_nearest(np.array([0]), 4).wait()[0, :2].tolist() == [2, 3]
    assert choose_classes([0], table.request_nearest(np.array([0]), 4).wait(), 4, table) == [0, 2, 3]


def test_seeds_take_their_nearest_class_in_turn():
    """The seeds 0 and 3 alternately take their nearest free class."""
    table = table_of([0.0, 0.1, 0.2, 3.0, 2.9, 2.8])
    nearest = table.request_nearest(np.array([0, 3]), 6).wait()

    assert choose_classes([0, 3], nearest, 6, table) == [0, 3, 1, 4, 2, 5]


def test_a_class_nearest_to_two_seeds_is_taken_once():
    table = table_of([0.0, 0.1, 0.05, 1.0, 2.0])
    nearest = table.request_nearest(np.array([0, 1]), 5).wait()

    chosen = choose_classes([0, 1], nearest, 4, table)

    assert chosen == [0, 1, 2, 3]


def test_the_share_of_filled_rows_counts_each_class_once():
    table = RepresentativeTable(4, 2, CPU)
    assert table.filled_share == 0

    for _ in range(2):
        table.refresh(np.array([0, 2]), torch.eye(2), step=5)

    assert table.filled_share == 0.5
    assert table.is_filled(2)
    assert not table.is_filled(1)


def test_refreshing_keeps_no_gradient():
    table = RepresentativeTable(2, 2, CPU)
    embeddings = torch.eye(2, requires_grad=True)

    table.refresh(np.array([0, 1]), embeddings, step=0)

    assert not table.embeddings_CD.requires_grad


def test_a_restored_table_is_equal():
    table = table_of([0.0, 0.1, 0.5, 2.0], missing=(1,))
    other = RepresentativeTable(4, 2, CPU)

    other.restore(table.state())

    assert other.filled_share == table.filled_share
    seeds = np.array([0, 3])
    assert np.array_equal(other.request_nearest(seeds, 2).wait(), table.request_nearest(seeds, 2).wait())


@pytest.mark.gpu
def test_mining_on_a_gpu_finds_the_same_classes():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(1000, 64, generator=generator), dim=1)
    found = []
    for device in (CPU, torch.device("cuda")):
        table = RepresentativeTable(1000, 64, device)
        table.refresh(np.arange(1000), embeddings.to(device), step=0)
        found.append(table.request_nearest(np.arange(10), 8).wait())
        assert table.embeddings_CD.device.type == device.type

    assert np.array_equal(found[0], found[1])
