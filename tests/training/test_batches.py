import numpy as np
import pytest
import torch

from training.batches import BatchSampler
from training.config import BatchConfig
from training.mining import RepresentativeTable

NUM_CLASSES, IMAGES_PER_CLASS = 12, 5
LABELS = np.arange(NUM_CLASSES).repeat(IMAGES_PER_CLASS)
IS_CATALOGUE = np.arange(len(LABELS)) % IMAGES_PER_CLASS == 2


def sampler(seed=0, *, table=None, labels=LABELS, is_catalogue=IS_CATALOGUE, **knobs):
    knobs = {"classes_per_batch": 4, "images_per_class": 3, "hard_class_fraction": 0.0} | knobs
    table = table or RepresentativeTable(int(labels.max()) + 1, 8, torch.device("cpu"))
    made = BatchSampler(BatchConfig(**knobs), labels, is_catalogue, table, seed=seed)
    made.begin_projection(0)
    made.prepare()
    return made


def take(made):
    batch = made.take()
    made.prepare()
    return batch


def filled_table():
    table = RepresentativeTable(NUM_CLASSES, 8, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(NUM_CLASSES, 8, generator=generator), dim=1)
    table.refresh(np.arange(NUM_CLASSES), rows, step=0)
    return table


def test_a_batch_has_distinct_classes_with_m_images_each():
    batch = take(sampler())

    assert len(set(batch.classes.tolist())) == 4
    assert batch.labels.tolist() == batch.classes.repeat(3).tolist()
    assert (LABELS[batch.images] == batch.labels).all()
    assert batch.is_representative.reshape(4, 3).tolist() == [[True, False, False]] * 4
    assert len(set(batch.images.tolist())) == 12


def test_representatives_stay_until_the_projection_ends_and_then_change():
    made = sampler()
    held: dict[int, int] = {}
    for _ in range(12):
        batch = take(made)
        for label, image in zip(batch.classes, batch.images[batch.is_representative], strict=True):
            assert held.setdefault(label, image) == image

    made.begin_projection(1)
    changed = {label: made.representative_of(label) for label in range(NUM_CLASSES)}

    # Queues return every image once before repeating, so none is the same.
    assert all(changed[label] != image for label, image in held.items())


def test_every_image_of_a_class_represents_once_in_as_many_projections():
    made = sampler()

    seen = []
    for projection in range(IMAGES_PER_CLASS):
        made.begin_projection(projection)
        seen.append(made.representative_of(3))

    assert sorted(seen) == np.flatnonzero(LABELS == 3).tolist()


def test_a_representative_is_drawn_at_first_use():
    """Projections that do not use a class draw nothing from its queue."""
    made = sampler()
    for projection in range(3):
        made.begin_projection(projection)

    seen = []
    for projection in range(3, 3 + IMAGES_PER_CLASS):
        made.begin_projection(projection)
        seen.append(made.representative_of(0))

    assert sorted(seen) == list(range(IMAGES_PER_CLASS))


def test_a_representative_occurs_once_in_its_batch():
    made = sampler(images_per_class=5)
    for _ in range(40):
        images = take(made).images.reshape(4, 5)

        assert all(len(set(row)) == 5 for row in images.tolist())


def test_every_class_is_a_seed_once_per_epoch():
    made = sampler(hard_class_fraction=0.5, table=filled_table())
    seeds = []
    for _ in range(NUM_CLASSES // 2):
        batch = take(made)
        seeds += batch.classes[: 4 - batch.num_mined].tolist()

    assert sorted(seeds) == list(range(NUM_CLASSES))
    assert made.epoch == pytest.approx(1, abs=0.2)


def test_mining_fills_the_share_with_the_nearest_classes():
    table = filled_table()
    made = sampler(hard_class_fraction=0.5, table=table)

    batch = take(made)

    assert batch.num_mined == 2
    scores = table.embeddings_CD @ table.embeddings_CD.T
    first_seed, second_seed, first_mined, _ = batch.classes.tolist()
    order = [c for c in scores[first_seed].argsort(descending=True).tolist() if c not in (first_seed, second_seed)]
    assert first_mined == order[0]


def test_mining_starts_once_the_table_contains_most_classes():
    table = RepresentativeTable(NUM_CLASSES, 8, torch.device("cpu"))
    table.refresh(np.arange(5), torch.eye(8)[:5], step=0)
    made = sampler(hard_class_fraction=0.5, table=table)
    assert take(made).num_mined == 0

    table.refresh(np.arange(8), torch.eye(8), step=1)
    take(made)  # planned before

    assert take(made).num_mined == 2


def test_the_catalogue_image_represents_its_class():
    made = sampler(representatives="catalogue")

    for projection in range(3):
        made.begin_projection(projection)
        assert IS_CATALOGUE[[made.representative_of(c) for c in range(NUM_CLASSES)]].all()


def test_alternating_takes_the_catalogue_every_second_projection():
    made = sampler(representatives="alternate")
    shares = []
    for projection in range(6):
        made.begin_projection(projection)
        shares.append(IS_CATALOGUE[[made.representative_of(c) for c in range(NUM_CLASSES)]].mean())

    assert shares[::2] == [1.0, 1.0, 1.0]
    assert max(shares[1::2]) < 1


def test_a_class_without_catalogue_image_takes_one_of_its_queue():
    is_catalogue = IS_CATALOGUE & (LABELS != 7)
    made = sampler(representatives="catalogue", is_catalogue=is_catalogue)

    assert LABELS[made.representative_of(7)] == 7


def test_fewer_classes_than_wanted_give_smaller_batches():
    few = LABELS[LABELS < 3]
    made = sampler(labels=few, is_catalogue=few < 0)

    assert len(take(made).classes) == 3


def test_equal_seeds_give_equal_batches_and_others_do_not():
    batches = [[take(made).images.tolist() for _ in range(5)] for made in (sampler(4), sampler(4), sampler(5))]

    assert batches[0] == batches[1]
    assert batches[0] != batches[2]


@pytest.mark.parametrize("representatives", ["none", "queue", "catalogue", "alternate"])
def test_a_restored_sampler_draws_the_same_batches(representatives):
    table = filled_table()
    knobs = {"hard_class_fraction": 0.5, "representatives": representatives, "table": table}
    made = sampler(**knobs)
    for _ in range(7):
        take(made)
    state = made.state()
    expected = [take(made).images.tolist() for _ in range(9)]

    other = sampler(seed=99, **knobs)
    other.restore(state)

    assert [take(other).images.tolist() for _ in range(9)] == expected
