"""A gallery that contains some of the queries, each of which is excluded from its own answer."""

import numpy as np
import pytest

from tests.training.evaluation.test_retrieval import KS, assert_is, made, oracle, with_ties
from training.errors import InvalidEmbeddings
from training.evaluation.retrieval import evaluate_retrieval


def mixed(make, num_classes, *, share=0.5, seed=3):
    """Queries, a share of which are rows of the gallery."""
    rng = np.random.default_rng(seed)
    gallery, gallery_labels = make(60, num_classes, seed=1)
    queries, query_labels = make(40, num_classes, seed=2)
    own_rows = np.where(rng.random(40) < share, rng.integers(0, 60, 40), -1)
    is_own = own_rows >= 0
    queries[is_own], query_labels[is_own] = gallery[own_rows[is_own]], gallery_labels[own_rows[is_own]]
    return queries, query_labels, gallery, gallery_labels, own_rows


@pytest.mark.parametrize("num_classes", [1, 5, 45])
@pytest.mark.parametrize("make", [made, with_ties])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("block_bytes", [1, 2**12, 2**28])
def test_own_rows_equal_nested_loops(num_classes, make, share, block_bytes):
    queries, query_labels, gallery, gallery_labels, own_rows = mixed(make, num_classes, share=share)
    data = queries, query_labels, gallery, gallery_labels

    result = evaluate_retrieval(*data, own_rows=own_rows, ks=KS, num_neighbours=9, block_bytes=block_bytes)

    assert_is(result, oracle(*data, own_rows=own_rows))


def test_a_gallery_of_the_queries_equals_a_set_against_itself():
    embeddings, labels = made(80, 12)

    among = evaluate_retrieval(embeddings, labels, embeddings, labels, own_rows=np.arange(80), ks=KS, num_neighbours=79)
    alone = evaluate_retrieval(embeddings, labels, ks=KS, num_neighbours=100)

    for name in ("num_relevant", "first_hit_rank", "map_at_r", "r_precision", "neighbour_ids", "neighbour_scores"):
        np.testing.assert_array_equal(getattr(among, name), getattr(alone, name))


def test_a_query_alone_in_its_class_finds_nothing():
    """Next to a query that ranks the whole gallery, where the excluded row comes last."""
    gallery, gallery_labels = np.eye(4, dtype=np.float32), np.array([0, 0, 0, 1])
    queries, query_labels = gallery[[0, 3]], np.array([0, 1])

    result = evaluate_retrieval(
        queries, query_labels, gallery, gallery_labels, own_rows=np.array([-1, 3]), num_neighbours=9
    )

    assert result.num_relevant.tolist() == [3, 0]
    assert result.first_hit_rank.tolist() == [1, 0]
    assert np.isnan(result.map_at_r).tolist() == [False, True]
    assert 3 not in result.neighbour_ids[1]


def test_an_own_row_with_another_label_removes_no_hit():
    """For example a catalogue image that is also an example with another label."""
    gallery, gallery_labels = np.eye(3, dtype=np.float32), np.array([0, 1, 1])

    result = evaluate_retrieval(gallery[:1], np.array([1]), gallery, gallery_labels, own_rows=np.array([0]))

    assert result.num_relevant.tolist() == [2]
    assert result.first_hit_rank.tolist() == [1]


@pytest.mark.parametrize(
    ("own_rows", "message"),
    [
        (np.array([0, 60]), "own row 60 of query 1 is not a row of a gallery of 60"),
        (np.array([-2, 0]), "own row -2 of query 0"),
        (np.array([0]), "one integer per query"),
        (np.array([0.0, 1.0]), "one integer per query"),
    ],
)
def test_refuses_invalid_own_rows(own_rows, message):
    queries, query_labels, gallery, gallery_labels, _ = mixed(made, 5)

    with pytest.raises(InvalidEmbeddings, match=message):
        evaluate_retrieval(queries[:2], query_labels[:2], gallery, gallery_labels, own_rows=own_rows)


def test_own_rows_without_a_gallery_are_refused():
    with pytest.raises(ValueError, match="rows of a gallery"):
        evaluate_retrieval(*made(9, 2), own_rows=np.arange(9))
