"""Measuring recall, choosing nprobe from it, and refusing an index below the threshold."""

from typing import Any

import numpy as np
import pytest

from embedding.artifact import read_manifest
from index.errors import LowRecall
from index.indexer import build_index
from index.quality import QUERY_COSINE, RecallSample, choose_nprobe, measure_ann_recall
from index.row_search import Hits
from index.storage import KIND
from index.structures import IndexOptions, Structure
from tests.index.rows import SPACE, clustered_rows, entries_for, index_over, random_rows


class LastRows:
    """An index that always returns its last rows."""

    def __init__(self, embeddings):
        self.embeddings = embeddings

    def search(self, queries_ND, k):
        rows = np.arange(len(self.embeddings) - k, len(self.embeddings))
        scores = queries_ND @ self.embeddings[rows].T
        return Hits(scores, np.tile(rows, (len(queries_ND), 1)))


def test_the_default_ivf_structure_reaches_its_threshold_with_few_lists(ivf_index):
    structure = ivf_index.structure

    assert (structure.name, structure.storage, structure.nlist) == ("ivf", "float16", 1024)
    assert structure.nprobe is not None
    assert structure.nprobe <= structure.nlist // 16
    for seed in (11, 12):
        assert measure_ann_recall(ivf_index, seed=seed) >= 0.95


def test_the_manifest_states_what_was_measured(ivf_index):
    stated = ivf_index.facts.ann_recall

    assert (stated.k, stated.num_queries, stated.threshold) == (10, 500, 0.95)
    assert stated.value == measure_ann_recall(ivf_index, k=10, num_queries=500, seed=0)


@pytest.mark.parametrize("storage", ["float16", "sq8"])
def test_an_ivf_structure_that_visits_all_lists_loses_almost_nothing(tmp_path, storage):
    rows = clustered_rows(3000, 48, 60)
    index = index_over(tmp_path / "index", rows, structure="ivf", storage=storage, nlist=32, nprobe=32)

    assert index.structure == Structure("ivf", storage, 32, 32, 4)
    assert measure_ann_recall(index) > 0.995


def test_exact_search_has_a_recall_of_one(exact_index):
    assert measure_ann_recall(exact_index, k=50) == 1
    assert measure_ann_recall(exact_index, k=1000, num_queries=20) == 1
    assert exact_index.facts.ann_recall.value == 1


def test_wrong_rows_do_not_count():
    rows = random_rows(2000, 16)

    assert measure_ann_recall(LastRows(rows), k=10) < 0.02


def test_a_duplicate_counts_as_the_row_itself():
    rows = np.repeat(random_rows(3, 8), 50, axis=0)
    everything_equal = np.repeat(rows[:1], 50, axis=0)

    assert measure_ann_recall(LastRows(everything_equal), k=10) == 1


def test_an_empty_index_has_a_recall_of_one():
    assert measure_ann_recall(LastRows(np.zeros((0, 4), np.float32))) == 1


def test_queries_are_near_rows_but_not_equal():
    rows = random_rows(300, 256)

    sample = RecallSample.draw(rows, 5, 400, seed=3)

    cosines = (sample.queries @ rows.T).max(axis=1)
    assert cosines.mean() == pytest.approx(QUERY_COSINE, abs=0.01)
    np.testing.assert_allclose(np.linalg.norm(sample.queries, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(sample.kth_scores, np.sort(sample.queries @ rows.T, axis=1)[:, -5], atol=1e-6)


def test_a_higher_threshold_needs_more_lists(tmp_path):
    rows = random_rows(4000, 24)
    chosen = []
    for threshold in (0.5, 0.9, 0.99):
        directory = tmp_path / str(threshold)
        index = index_over(directory, rows, structure="ivf", nlist=64, min_ann_recall=threshold)
        chosen.append(index.structure.nprobe or 0)
        assert index.facts.ann_recall.value >= threshold

    assert chosen == sorted(set(chosen))


def test_visits_all_lists_if_fewer_are_not_enough():
    rows = random_rows(200, 8)
    structure = Structure("ivf", "float16", 24, None, 4)

    nprobe = choose_nprobe(rows, lambda _: LastRows(rows), structure, IndexOptions(), num_queries=20)

    assert nprobe == 24


def test_an_index_of_low_recall_is_not_written(tmp_path):
    rows = random_rows(4000, 24)
    options = IndexOptions(structure="ivf", storage="sq8", nlist=64, nprobe=1, device="cpu")

    with pytest.raises(LowRecall, match=r"ann_recall@10 is 0\.\d+, below the threshold 0\.95") as raised:
        build_index(tmp_path / "index", entries_for(4000), rows, space_id=SPACE, options=options)

    for remedy in ("nprobe (now 1)", "rescore (now 4)", "nlist (now 64)", "'float16'", "'exact'"):
        assert remedy in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_requested_options_are_used_and_stated(tmp_path):
    rows = clustered_rows(2000, 16, 30)
    asked: dict[str, Any] = {"storage": "sq8", "nlist": 20, "nprobe": 9, "rescore": 6}
    index = index_over(tmp_path / "index", rows, structure="ivf", recall_k=3, min_ann_recall=0.6, **asked)

    facts = read_manifest(tmp_path / "index", KIND)["facts"]
    assert isinstance(facts, dict)
    assert facts["structure"] == {"name": "ivf", **asked}
    assert (index.facts.ann_recall.k, index.facts.ann_recall.threshold) == (3, 0.6)


def test_the_structure_file_is_as_small_as_its_storage(tmp_path):
    rows = clustered_rows(3000, 64, 30)
    sizes = {}
    for storage in ("float16", "sq8"):
        index_over(tmp_path / storage, rows, structure="ivf", storage=storage, nlist=4, nprobe=4)
        sizes[storage] = (tmp_path / storage / "structure.faiss").stat().st_size

    assert sizes["sq8"] < 1.2 * 3000 * (64 + 8)
    assert sizes["float16"] < 1.2 * 3000 * (128 + 8)
