"""Invariants of searching. Shape legend: N queries or rows, D dimension."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.artifact import read_manifest
from index.candidates import ExactCandidates
from index.errors import SpaceMismatch
from index.faiss_library import load_faiss
from index.indexer import IndexEntry
from index.row_search import RowSearch
from index.storage import KIND
from index.structures import Structure
from index.vector_index import VectorIndex
from tests.fakes import Clock
from tests.index.rows import (
    SPACE,
    assert_same_hits,
    brute_force,
    in_threads,
    index_of,
    index_over,
    random_rows,
    unit,
)


@pytest.fixture(params=["exact_index", "ivf_index"])
def index(request):
    return request.getfixturevalue(request.param)


def test_each_row_finds_itself_with_a_cosine_of_one(index):
    rows = np.arange(0, index.num_rows, index.num_rows // 50)

    hits = index.search(index.embeddings[rows], 1)

    np.testing.assert_array_equal(hits.rows[:, 0], rows)
    np.testing.assert_allclose(hits.scores[:, 0], 1, atol=1e-6)


def test_a_batch_equals_single_queries(index):
    queries = random_rows(64, index.embedding_dim, seed=1)

    together = index.search(queries, 12)

    for number, query in enumerate(queries):
        alone = index.search(query[None], 12)
        np.testing.assert_array_equal(alone.rows[0], together.rows[number])
        np.testing.assert_array_equal(alone.scores[0], together.scores[number])


def test_eight_threads_find_the_same_as_one(index):
    queries = random_rows(96, index.embedding_dim, seed=2)
    serial = [(index.search(query[None], 10).rows.tolist(), index.search_products(query, 5)) for query in queries]

    parallel = in_threads(
        lambda number: (
            index.search(queries[number][None], 10).rows.tolist(),
            index.search_products(queries[number], 5),
        ),
        len(queries),
    )

    assert parallel == serial


def test_a_search_restores_the_number_of_threads(exact_index):
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        exact_index.search(exact_index.embeddings[:1], 5)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_scores_descend_and_rows_are_distinct(index):
    hits = index.search(random_rows(20, index.embedding_dim, seed=3), 100)

    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert all(len(set(rows)) == 100 for rows in hits.rows.tolist())


def test_exact_search_equals_brute_force(exact_index):
    queries = random_rows(40, exact_index.embedding_dim, seed=4)

    for k in (1, 7, 499, 500, 600):
        assert_same_hits(exact_index.search(queries, k), brute_force(exact_index.embeddings, queries, k))


# Few values per coordinate and few distinct rows, so that most searches end within a tie.
TIED_ROWS = st.integers(1, 6).flatmap(
    lambda dim: st.tuples(
        st.lists(st.lists(st.integers(-2, 2), min_size=dim, max_size=dim).filter(any), min_size=1, max_size=6),
        st.lists(st.integers(0, 5), max_size=90),
    )
)


@settings(deadline=None, max_examples=150)
@given(TIED_ROWS, st.integers(1, 100), st.integers(0, 5))
def test_exact_search_equals_brute_force_with_ties(drawn, k, query_number):
    distinct, choices = drawn
    distinct_ND = unit(distinct)
    rows_ND = np.ascontiguousarray(distinct_ND[[choice % len(distinct) for choice in choices]])
    query_ND = distinct_ND[query_number % len(distinct)][None]

    hits = RowSearch(rows_ND, ExactCandidates(rows_ND)).search(query_ND, k)

    assert_same_hits(hits, brute_force(rows_ND, query_ND, k))


class NoisyCandidates:
    """Candidates whose scores have the largest allowed error, and whose ties are unordered."""

    num_lists, nprobe, noise = 1, 1, 2e-6

    def __init__(self, embeddings, seed):
        self.embeddings = embeddings
        self.errors = np.random.default_rng(seed).uniform(-5e-7, 5e-7, len(embeddings))
        self.num_searches = 0

    def nearest(self, queries_ND, num_candidates, nprobe, /):
        self.num_searches += 1
        scores = queries_ND.astype(np.float64) @ self.embeddings.T + self.errors
        rows = np.argsort(-scores, axis=1)[:, :num_candidates]
        return np.take_along_axis(scores, rows, axis=1).astype(np.float32), rows

    def above(self, query_D, score, nprobe, /):
        return np.flatnonzero(self.embeddings.astype(np.float64) @ query_D - self.errors > score)


@settings(deadline=None, max_examples=150)
@given(TIED_ROWS, st.integers(1, 100), st.integers(0, 5), st.integers(0, 1000))
def test_rounding_of_candidate_scores_does_not_change_the_hits(drawn, k, query_number, seed):
    distinct, choices = drawn
    distinct_ND = unit(distinct)
    rows_ND = np.ascontiguousarray(distinct_ND[[choice % len(distinct) for choice in choices]])
    query_ND = distinct_ND[query_number % len(distinct)][None]

    hits = RowSearch(rows_ND, NoisyCandidates(rows_ND, seed)).search(query_ND, k)

    assert_same_hits(hits, brute_force(rows_ND, query_ND, k))


@pytest.mark.parametrize("num_queries", [1, 30])
def test_rows_that_differ_by_less_than_float32_sums_are_ranked_exactly(num_queries):
    generator = np.random.default_rng(6)
    rows = unit(random_rows(1, 200) + 3e-8 * generator.standard_normal((3000, 200)))
    queries = unit(random_rows(1, 200) + 0.05 * generator.standard_normal((num_queries, 200)))

    hits = RowSearch(rows, ExactCandidates(rows)).search(queries, 10)

    assert_same_hits(hits, brute_force(rows, queries, 10))


@pytest.mark.parametrize("options", [{"structure": "exact"}, {"structure": "ivf", "nlist": 16}])
@pytest.mark.parametrize("k", [1, 5, 300, 700])
def test_ties_at_the_last_hit_are_broken_by_id(tmp_path, options, k):
    """One image shared by hundreds of products: all are equal, and the smallest ids win."""
    rows = random_rows(2000, 24)
    copies = np.random.default_rng(5).choice(2000, 600, replace=False)
    rows[copies] = rows[copies[0]]
    index = index_over(tmp_path / "index", rows, **options)

    for num_queries in (1, 40):  # faiss uses different kernels for few and many queries
        queries = np.repeat(rows[copies[:1]], num_queries, axis=0)
        hits = index.search(queries, k)

        first = np.sort(copies)[:k]
        np.testing.assert_array_equal(hits.rows[:, : len(first)], np.tile(first, (num_queries, 1)))
        assert len(set(hits.scores[:, : len(first)].ravel().tolist())) == 1


def test_missing_hits_are_padded_with_minus_one_and_minus_infinity(index):
    hits = index.search(index.embeddings[:2], index.num_rows + 3)

    assert (hits.rows[:, -3:] == -1).all()
    assert np.isneginf(hits.scores[:, -3:]).all()
    np.testing.assert_array_equal(np.sort(hits.rows[:, :-3], axis=1)[0], np.arange(index.num_rows))


def test_an_ivf_search_visits_more_lists_if_these_contain_too_few_rows(tmp_path):
    rows = random_rows(1000, 16)
    index = index_over(tmp_path / "index", rows, structure="ivf", nlist=64, nprobe=1, min_ann_recall=0)

    hits = index.search(rows[:5], 400)

    assert (hits.rows >= 0).all()


def test_finds_distinct_products_each_with_its_best_row(index):
    product_numbers = np.array([int(product.removeprefix("product-")) for product in index.product_ids()])
    query = unit(index.embeddings[:1] + 0.05)[0]

    everything = brute_force(index.embeddings, query[None], 1000).rows[0]
    everything = everything[everything >= 0]
    for k in (1, 3, 10):
        hits = index.search_products(query, k)
        expected = list(dict.fromkeys(product_numbers[everything].tolist()))[:k]
        assert [product_numbers[hit.row] for hit in hits] == expected
        best_rows = [next(row for row in everything if product_numbers[row] == product) for product in expected]
        assert [hit.row for hit in hits] == best_rows


@pytest.mark.parametrize("options", [{"structure": "exact"}, {"structure": "ivf", "nlist": 32, "nprobe": 1}])
def test_fetches_more_rows_until_k_products_are_found(tmp_path, options):
    """One product has 900 images, all nearer to the query than any other product."""
    near, far = np.ones(8) + 0.01 * random_rows(900, 8), -np.eye(8)
    embeddings = unit(np.concatenate([near, far]))
    products = ["many"] * 900 + [f"single-{number}" for number in range(8)]
    entries = [IndexEntry(f"{row:04d}", product) for row, product in enumerate(products)]
    index = index_of(tmp_path / "index", entries, embeddings, min_ann_recall=0, **options)

    for k in (1, 4, 9, 50):
        hits = index.search_products(unit(np.ones((1, 8)))[0], k)
        assert [products[hit.row] for hit in hits] == ["many", *products[900 : 900 + min(k, 9) - 1]]


def test_returns_all_products_if_k_exceeds_their_number(index):
    hits = index.search_products(index.embeddings[0], index.num_products + 1)

    assert len(hits) == index.num_products
    assert len({index.product_ids()[hit.row] for hit in hits[:50]}) == 50


def test_no_product_scores_below_min_score(exact_index):
    query = exact_index.embeddings[17]
    everything = exact_index.search_products(query, exact_index.num_products)
    limit = everything[6].score

    assert exact_index.search_products(query, 50, min_score=limit) == everything[:7]
    assert exact_index.search_products(query, 3, min_score=limit) == everything[:3]
    assert exact_index.search_products(query, 50, min_score=1.1) == []
    assert exact_index.search_products(query, 500, min_score=-1) == everything


def test_fetches_no_more_rows_below_min_score(tmp_path):
    """The nearest 500 rows are one product: without a limit, ten products need several searches."""
    embeddings = unit(np.concatenate([np.ones(8) + 0.1 * random_rows(500, 8), random_rows(100, 8)]))
    entries = [IndexEntry(f"{row:04d}", "many" if row < 500 else f"p{row}") for row in range(600)]
    built = index_of(tmp_path / "index", entries, embeddings)
    query, num_searches = embeddings[3], []

    for min_score in (None, 0.9999):
        candidates = NoisyCandidates(built.embeddings, seed=0)
        index = VectorIndex(built.facts, RowSearch(built.embeddings, candidates), built.entries)
        assert index.search_products(query, 10, min_score=min_score) == built.search_products(
            query, 10, min_score=min_score
        )
        num_searches.append(candidates.num_searches)

    assert num_searches[0] > num_searches[1] == 1


def test_products_with_equal_scores_are_in_the_order_of_their_image_ids(tmp_path):
    entries = [IndexEntry(image, product) for image, product in [("c", "p1"), ("a", "p3"), ("b", "p2"), ("d", "p3")]]
    index = index_of(tmp_path / "index", entries, np.tile(random_rows(1, 4), (4, 1)))

    hits = index.search_products(index.embeddings[0], 3)

    assert [index.entry(hit.row).image_id for hit in hits] == ["a", "b", "c"]


@pytest.mark.parametrize("options", [{}, {"structure": "ivf"}])
def test_an_empty_index_finds_nothing(tmp_path, options):
    index = index_over(tmp_path / "index", np.zeros((0, 4), np.float32), **options)
    query = random_rows(1, 4)

    assert (index.num_rows, index.num_products, index.image_ids()) == (0, 0, [])
    assert (index.search(query, 3).rows == -1).all()
    assert index.search_products(query[0], 3) == []
    assert index.search_products(query[0], 3, min_score=0.5) == []


def test_no_queries_give_no_hits(index):
    assert index.search(np.zeros((0, index.embedding_dim), np.float32), 3).rows.shape == (0, 3)


def test_an_index_of_one_row_can_be_searched(tmp_path):
    index = index_over(tmp_path / "index", random_rows(1, 4))

    [hit] = index.search_products(index.embeddings[0], 5)
    assert hit.row == 0
    assert hit.score == pytest.approx(1, abs=1e-6)


def test_refuses_queries_that_are_not_embeddings_of_the_space(exact_index):
    query = exact_index.embeddings[:2]
    not_finite = query.copy()
    not_finite[1, 3] = np.nan

    with pytest.raises(SpaceMismatch, match=r"dimension 48, got float32 of shape \(2, 47\)"):
        exact_index.search(query[:, :47], 1)
    with pytest.raises(SpaceMismatch, match="float64"):
        exact_index.search(query.astype(np.float64), 1)
    with pytest.raises(SpaceMismatch, match="shape"):
        exact_index.search(query[0], 1)
    with pytest.raises(SpaceMismatch, match=r"query 0 is 1\.1"):
        exact_index.search(query * np.float32(1.1), 1)
    with pytest.raises(SpaceMismatch, match="query 1 is nan"):
        exact_index.search(not_finite, 1)
    with pytest.raises(SpaceMismatch, match="shape"):
        exact_index.search_products(query, 1)
    with pytest.raises(SpaceMismatch, match=r"'other', the index to 'space-of-tests'"):
        exact_index.require_space("other")
    exact_index.require_space(SPACE)


def test_k_must_be_positive(exact_index):
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        exact_index.search(exact_index.embeddings[:1], 0)
    with pytest.raises(ValueError, match="k must be at least 1, got -1"):
        exact_index.search_products(exact_index.embeddings[0], -1)


def test_returns_the_entry_of_a_row(exact_index):
    assert exact_index.entry(7) == IndexEntry("image-0000007", "product-0000001", {"row": 7})
    assert exact_index.image_ids()[499] == "image-0000499"
    assert exact_index.product_ids()[499] == "product-0000099"
    assert exact_index.entries.column("product_number")[499].as_py() == 99
    for row in (-1, 500):
        with pytest.raises(IndexError, match=rf"within 0\.\.499, got {row}"):
            exact_index.entry(row)


def test_facts_equal_the_manifest(tmp_path):
    directory = tmp_path / "index"
    index = index_over(directory, random_rows(30, 6), images_per_product=3)

    manifest = read_manifest(directory, KIND)
    assert index.index_id == str(manifest["sha256"])[:16]
    assert (index.space_id, index.embedding_dim, index.num_rows, index.num_products) == (SPACE, 6, 30, 10)
    assert index.structure == Structure("exact")
    assert {**index.facts.manifest_facts(), "index_id": index.index_id} == index.facts.to_json()
    assert json.loads(json.dumps(index.facts.manifest_facts())) == manifest["facts"]


def test_embeddings_are_memory_mapped(ivf_index):
    """Two indexes at once, as during a swap, do not double the memory of the process."""
    base = ivf_index.embeddings.base

    assert isinstance(base, np.memmap)
    assert not ivf_index.embeddings.flags.writeable


def test_searching_and_grouping_are_timed_separately(tmp_path, monkeypatch):
    """Over all rounds: the first eight and sixteen rows of forty belong to one of two products."""
    index = index_over(tmp_path / "index", np.tile(random_rows(1, 4), (40, 1)), images_per_product=20)
    search, group = index._row_search.search, index._product_search._grouped
    clock = Clock()
    fetched = []

    def slow_search(queries, num_rows, **options):
        fetched.append(num_rows)
        clock.seconds += 2
        return search(queries, num_rows, **options)

    def slow_group(*arguments):
        clock.seconds += 5
        return group(*arguments)

    monkeypatch.setattr(index._row_search, "search", slow_search)
    monkeypatch.setattr(index._product_search, "_grouped", slow_group)
    monkeypatch.setattr("index.product_search.time", SimpleNamespace(perf_counter=clock))
    timed = index.timed_search_products(index.embeddings[0], 2)

    assert (fetched, [hit.row for hit in timed.hits]) == ([8, 16, 32], [0, 20])
    assert (timed.search_seconds, timed.group_seconds) == (3 * 2, 3 * 5)
