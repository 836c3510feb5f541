"""Search on a GPU: the logic with a fake GPU index, and (marked `gpu`) a real one."""

import dataclasses
import logging
import weakref

import numpy as np
import pytest

from index import gpu
from index.candidates import ExactCandidates, IVFCandidates, open_ivf
from index.errors import GPUMemoryFull, MissingFaiss, UnsupportedDevice
from index.faiss_library import FaissBuild, faiss_build, load_faiss
from index.gpu import GPUCandidates, gpu_bytes, place, require_gpu_memory, wants_gpu
from index.indexer import build_index
from index.row_search import RowSearch
from index.structures import IndexOptions
from index.vector_index import VectorIndex
from tests.index.rows import SPACE, assert_same_hits, clustered_rows, entries_for, in_threads, index_over, random_rows


class CountingIndex:
    """A fake index on a GPU with its limits: it counts searches and allows one at a time."""

    def __init__(self, index):
        self.index = index
        self.ntotal, self.d = index.ntotal, index.d
        self.num_searches = 0
        self._is_busy = False

    def search(self, x, k, *, params=None):
        assert k <= 2048
        assert not self._is_busy
        self._is_busy = True
        found = self.index.search(x, k, params=params)
        self.num_searches += 1
        self._is_busy = False
        return found

    def range_search(self, x, thresh, *, params=None):
        raise AssertionError("faiss has no range search on a GPU")

    def add(self, x):
        raise AssertionError("a searched index is not changed")


def flat_over(rows):
    flat = load_faiss().IndexFlatIP(rows.shape[1])
    flat.add(rows)
    return flat


def test_gpu_candidates_get_exact_scores_from_the_cpu():
    rows = random_rows(3000, 16)
    rows[100:200] = rows[7]
    on_cpu = ExactCandidates(rows)
    on_gpu = CountingIndex(flat_over(rows))
    search = RowSearch(rows, GPUCandidates(on_gpu, None, on_cpu))

    for k in (1, 10, 2500):
        assert_same_hits(search.search(rows[:30], k), RowSearch(rows, on_cpu).search(rows[:30], k))

    assert on_gpu.num_searches == 2


def test_searches_on_a_gpu_are_serialised():
    rows = random_rows(3000, 16)
    on_gpu = CountingIndex(flat_over(rows))
    search = RowSearch(rows, GPUCandidates(on_gpu, None, ExactCandidates(rows)))

    in_threads(lambda number: search.search(rows[number : number + 1], 5), 64)

    assert on_gpu.num_searches == 64


def test_an_ivf_structure_on_a_gpu_is_searched_with_its_nprobe(tmp_path):
    rows = clustered_rows(2000, 16, 20)
    index = index_over(tmp_path / "index", rows, structure="ivf", nlist=16)
    ivf = open_ivf(tmp_path / "index" / "structure.faiss")
    nprobe = index.structure.nprobe or 0
    on_cpu = IVFCandidates(ivf, num_lists=16, nprobe=nprobe)
    on_gpu = CountingIndex(ivf)

    hits = RowSearch(rows, GPUCandidates(on_gpu, None, on_cpu), rescore=4).search(rows[:9], 10)

    assert on_gpu.num_searches > 0
    assert_same_hits(hits, index.search(rows[:9], 10))


@pytest.mark.parametrize(
    ("device", "build", "expected"),
    [
        ("cpu", FaissBuild("1", "gpu", 2), False),
        ("auto", FaissBuild("1", "cpu", 0), False),
        ("auto", FaissBuild("1", "gpu", 0), False),
        ("auto", FaissBuild("1", "gpu", 1), True),
        ("cuda", FaissBuild("1", "gpu", 1), True),
    ],
)
def test_auto_uses_an_available_gpu(monkeypatch, device, build, expected):
    monkeypatch.setattr(gpu, "faiss_build", lambda: build)

    assert wants_gpu(device) is expected


@pytest.mark.parametrize(
    ("device", "build", "message"),
    [
        (
            "cuda",
            FaissBuild("1", "cpu", 0),
            "needs faiss-gpu, but faiss-cpu is installed; run: pip uninstall faiss-cpu",
        ),
        ("cuda", FaissBuild("1", "gpu", 0), "finds no GPU or no driver; use auto or cpu"),
        ("mps", FaissBuild("1", "gpu", 1), "unknown device 'mps' for the index; use auto, cpu, cuda"),
    ],
)
def test_an_unavailable_device_is_refused(monkeypatch, exact_index, tmp_path, device, build, message):
    monkeypatch.setattr(gpu, "faiss_build", lambda: build)

    with pytest.raises(UnsupportedDevice, match=message):
        place(ExactCandidates(exact_index.embeddings), exact_index.embeddings, exact_index.facts, device)
    build_index(tmp_path / "index", entries_for(3), random_rows(3, 4), space_id=SPACE)
    with pytest.raises(UnsupportedDevice, match=message):
        VectorIndex.load(tmp_path / "index", device=device)


def test_an_index_that_cannot_be_copied_to_the_gpu_stays_on_the_cpu_with_auto_only(monkeypatch, caplog, exact_index):
    def fail(*_):
        raise RuntimeError("StandardGpuResources: alloc fail")

    rows = exact_index.embeddings
    candidates = ExactCandidates(rows)
    monkeypatch.setattr(gpu, "faiss_build", lambda: FaissBuild("1", "gpu", 1))
    monkeypatch.setattr(gpu, "_copy_to_gpu", fail)

    with caplog.at_level(logging.WARNING):
        placement = place(candidates, rows, exact_index.facts, "auto")
    assert placement.candidates is candidates
    assert not placement.is_on_gpu
    assert "alloc fail" in caplog.text
    assert "alloc fail" in (placement.fallback or "")
    with pytest.raises(UnsupportedDevice, match="cannot be copied to the GPU: StandardGpuResources"):
        place(candidates, rows, exact_index.facts, "cuda")


class FakeGPU:
    """A GPU with a number of free bytes; a copy of an index takes memory until it is freed."""

    def __init__(self, free_bytes):
        self.free_bytes = free_bytes
        self.num_copies = 0

    def copy(self, candidates, embeddings_ND):
        self.num_copies += 1
        copy = GPUCandidates(CountingIndex(flat_over(embeddings_ND)), None, candidates)
        num_bytes = embeddings_ND.nbytes + gpu._TEMPORARY_BYTES
        self.free_bytes -= num_bytes
        weakref.finalize(copy, self.free, num_bytes)
        return copy

    def free(self, num_bytes):
        self.free_bytes += num_bytes


@pytest.fixture
def fake_gpu(monkeypatch):
    """Make faiss find a GPU with 400 MiB of free memory."""
    fake = FakeGPU(400 * 2**20)
    monkeypatch.setattr(gpu, "faiss_build", lambda: FaissBuild("1", "gpu", 1))
    monkeypatch.setattr(gpu, "free_gpu_bytes", lambda _: fake.free_bytes)
    monkeypatch.setattr(gpu, "_copy_to_gpu", fake.copy)
    return fake


def test_an_index_that_fits_is_copied_to_the_gpu(fake_gpu, exact_index, tmp_path):
    build_index(tmp_path / "index", entries_for(30), random_rows(30, 4), space_id=SPACE)

    index = VectorIndex.load(tmp_path / "index", device="auto")

    assert (index.device, index.fallback, fake_gpu.num_copies) == ("cuda", None, 1)


def test_beside_the_served_index_auto_falls_back_to_the_cpu_and_says_why(fake_gpu, tmp_path):
    """As during a swap; the index that is loaded when the memory is free again is on the GPU."""
    build_index(tmp_path / "index", entries_for(30), random_rows(30, 4), space_id=SPACE)
    served = VectorIndex.load(tmp_path / "index", device="auto")

    loaded_beside = VectorIndex.load(tmp_path / "index", device="auto")
    del served
    loaded_later = VectorIndex.load(tmp_path / "index", device="auto")

    assert (loaded_beside.device, loaded_later.device) == ("cpu", "cuda")
    assert loaded_beside.fallback is not None
    assert "needs 0.25 GiB of memory on the GPU, and 0.14 GiB are free" in loaded_beside.fallback
    assert loaded_later.fallback is None
    assert fake_gpu.num_copies == 2
    query = random_rows(1, 4)[0]
    assert loaded_beside.search_products(query, 5) == loaded_later.search_products(query, 5)


def test_with_cuda_an_index_that_does_not_fit_is_refused_before_anything_is_copied_or_hashed(fake_gpu, tmp_path):
    directory = tmp_path / "index"
    build_index(directory, entries_for(30), random_rows(30, 4), space_id=SPACE)
    fake_gpu.free_bytes = 2**20
    message = r"\(exact, 30 rows\) needs 0\.25 GiB .* and 0\.00 GiB are free .*restart the server.*'sq8'.*auto or cpu"

    with pytest.raises(GPUMemoryFull, match=message):
        VectorIndex.load(directory, device="cuda")
    for name in ("embeddings.npy", "entries.arrow"):
        (directory / name).unlink()
    with pytest.raises(GPUMemoryFull, match=message):
        require_gpu_memory(directory, "cuda")

    require_gpu_memory(directory, "auto")
    require_gpu_memory(directory, "cpu")
    assert fake_gpu.num_copies == 0


def test_where_the_driver_tells_no_free_memory_the_copy_is_tried(fake_gpu, monkeypatch, tmp_path):
    build_index(tmp_path / "index", entries_for(30), random_rows(30, 4), space_id=SPACE)
    monkeypatch.setattr(gpu, "free_gpu_bytes", lambda _: None)

    assert VectorIndex.load(tmp_path / "index", device="cuda").device == "cuda"


@pytest.mark.parametrize(
    ("options", "bytes_per_row"),
    [
        ({"structure": "exact"}, 4 * 16),
        ({"structure": "ivf", "storage": "float16"}, 2 * 16 + 8),
        ({"structure": "ivf", "storage": "sq8"}, 16 + 8),
    ],
)
def test_the_memory_of_a_copy_follows_from_rows_dimension_and_storage(tmp_path, options, bytes_per_row):
    facts = index_over(tmp_path / "index", clustered_rows(2000, 16, 20), nlist=16, min_ann_recall=0, **options).facts
    small = dataclasses.replace(facts, num_rows=1_000_000)
    large = dataclasses.replace(facts, num_rows=3_000_000)

    assert gpu_bytes(large) - gpu_bytes(small) == 2_000_000 * bytes_per_row
    assert gpu_bytes(small) > 1_000_000 * bytes_per_row + gpu._TEMPORARY_BYTES - 1


@pytest.fixture
def _gpu_faiss():
    """Skip without faiss-gpu, which a machine with a GPU need not have."""
    try:
        build = faiss_build()
    except MissingFaiss as error:
        pytest.skip(str(error))
    if build.kind == "cpu":
        pytest.skip("faiss-gpu is not installed, only faiss-cpu")


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu_faiss")
@pytest.mark.parametrize(
    "options", [{"structure": "exact"}, {"structure": "ivf"}, {"structure": "ivf", "storage": "sq8"}]
)
def test_search_on_a_gpu_equals_search_on_the_cpu(tmp_path, options):
    rows = clustered_rows(20_000, 64, 200)
    rows[500:900] = rows[3]
    on_cpu = index_over(tmp_path / "index", rows, images_per_product=3, **options)
    on_gpu = VectorIndex.load(tmp_path / "index", device="cuda")
    queries = np.concatenate([rows[:40], clustered_rows(40, 64, 200, seed=1)])

    for k in (1, 10, 300, 3000):
        hits, expected = on_gpu.search(queries, k), on_cpu.search(queries, k)
        assert (hits.rows == expected.rows).mean() > 0.999
        np.testing.assert_allclose(hits.scores, expected.scores, atol=1e-6)
    assert on_gpu.search_products(queries[0], 20_000) == on_cpu.search_products(queries[0], 20_000)
    serial = [on_gpu.search(query[None], 10).rows.tolist() for query in queries]
    assert in_threads(lambda number: on_gpu.search(queries[number][None], 10).rows.tolist(), len(queries)) == serial


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu_faiss")
def test_centroids_trained_on_a_gpu_reach_the_recall(tmp_path):
    rows = clustered_rows(20_000, 64, 200)
    options = IndexOptions(structure="ivf", device="cuda")

    facts = build_index(tmp_path / "index", entries_for(20_000), rows, space_id=SPACE, options=options)

    assert facts.ann_recall.value >= 0.95
