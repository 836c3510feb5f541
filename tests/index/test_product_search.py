"""The k nearest products: rows fetched in rounds, or one pass over all rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import product_search
from index.candidates import ExactCandidates
from index.product_search import ProductSearch
from index.row_search import RowSearch
from tests.index.rows import brute_force, clustered_rows, index_over, random_rows, unit


class CountingSearch(RowSearch):
    """Counts searches, and the rows that they fetch."""

    def __init__(self, embeddings_ND):
        super().__init__(embeddings_ND, ExactCandidates(embeddings_ND))
        self.fetched = []

    def search(self, queries_ND, k, **options):
        self.fetched.append(k)
        return super().search(queries_ND, k, **options)


def no_check():
    """Let a search run to its end."""


def best_of_each_product(embeddings_ND, numbers, query_D, k, min_score=None):
    """Return (row, score) of the nearest products, computed naively."""
    hits = brute_force(embeddings_ND, query_D[None], len(embeddings_ND))
    found: dict[int, tuple[int, float]] = {}
    for row, score in zip(hits.rows[0].tolist(), hits.scores[0].tolist(), strict=True):
        if min_score is None or score >= min_score:
            found.setdefault(int(numbers[row]), (row, score))
    return list(found.values())[:k]


TIED_PRODUCTS = st.integers(1, 5).flatmap(
    lambda dim: st.tuples(
        st.lists(st.lists(st.integers(-2, 2), min_size=dim, max_size=dim).filter(any), min_size=1, max_size=6),
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=80),
    )
)


@pytest.mark.parametrize("many_candidates", [0, 10**9], ids=["one pass", "rounds"])
@settings(deadline=None, max_examples=100)
@given(TIED_PRODUCTS, st.integers(1, 12), st.integers(0, 5), st.sampled_from([None, -0.3, 0.5, 1.0]))
def test_both_ways_equal_brute_force_with_ties(many_candidates, drawn, k, query_number, min_score):
    distinct, chosen = drawn
    distinct_ND = unit(distinct)
    rows_ND = np.ascontiguousarray(distinct_ND[[choice % len(distinct) for choice, _ in chosen]])
    query_D = distinct_ND[query_number % len(distinct)]
    _, numbers = np.unique([product for _, product in chosen], return_inverse=True)
    search = ProductSearch(CountingSearch(rows_ND), numbers.astype(np.int32), int(numbers.max()) + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_search, "_MANY_CANDIDATES", many_candidates)
        patch.setattr(product_search, "_MANY_OF_ROWS", 0)
        found = search.search(query_D, k, min_score, no_check).hits

    assert [(hit.row, hit.score) for hit in found] == best_of_each_product(rows_ND, numbers, query_D, k, min_score)


def test_rows_that_differ_by_less_than_float32_sums_are_ranked_exactly_in_one_pass(monkeypatch):
    monkeypatch.setattr(product_search, "_MANY_CANDIDATES", 0)
    monkeypatch.setattr(product_search, "_MANY_OF_ROWS", 0)
    generator = np.random.default_rng(6)
    rows = unit(random_rows(1, 200) + 3e-8 * generator.standard_normal((3000, 200)))
    query = unit(random_rows(1, 200) + 0.05 * generator.standard_normal((1, 200)))[0]
    numbers = np.arange(3000, dtype=np.int32) // 3
    search = ProductSearch(CountingSearch(rows), numbers, 1000)

    found = search.search(query, 20, None, no_check).hits

    assert [(hit.row, hit.score) for hit in found] == best_of_each_product(rows, numbers, query, 20)


def test_more_products_than_there_are_cost_at_most_three_rounds_and_one_pass():
    """The nearest 5,000 rows are one product, so no number of rounds that is bounded finds the others."""
    near, far = np.ones(8) + 0.01 * random_rows(5000, 8), -np.eye(8)
    rows = unit(np.concatenate([near, far]))
    numbers = np.concatenate([np.zeros(5000, np.int32), np.arange(1, 9, dtype=np.int32)])
    row_search = CountingSearch(rows)
    search = ProductSearch(row_search, numbers, 9)

    found = search.search(unit(np.ones((1, 8)))[0], 10_000, None, no_check).hits

    assert row_search.fetched == [36, 72, 144]
    assert {int(numbers[hit.row]) for hit in found} == set(range(9))


def test_many_products_are_found_in_one_pass(monkeypatch):
    monkeypatch.setattr(product_search, "_MANY_CANDIDATES", 1000)
    rows = random_rows(3000, 8)
    numbers = np.arange(3000, dtype=np.int32)
    row_search = CountingSearch(rows)
    search = ProductSearch(row_search, numbers, 3000)

    few = search.search(rows[0], 100, None, no_check).hits
    many = search.search(rows[0], 300, None, no_check).hits

    assert row_search.fetched == [400]
    assert many[:100] == few
    assert len(many) == 300


@pytest.mark.parametrize("options", [{"structure": "exact"}, {"structure": "ivf", "nlist": 32}])
@pytest.mark.parametrize("k", [1, 50, 2000])
def test_a_check_ends_every_kind_of_search(tmp_path, monkeypatch, options, k):
    monkeypatch.setattr(product_search, "_MANY_CANDIDATES", 1000)
    index = index_over(tmp_path / "index", clustered_rows(3000, 8, 20), min_ann_recall=0, **options)

    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        index.timed_search_products(index.embeddings[0], k, check=stop)
