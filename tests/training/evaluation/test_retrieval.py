import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from training.errors import InvalidEmbeddings
from training.evaluation.retrieval import evaluate_retrieval, summarise

KS = (1, 2, 4, 8, 1000)
PEER_METRICS = {
    "precision_at_1": "recall_at_1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map_at_r",
}


def unit_rows(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def made(num_images, num_classes, *, embedding_dim=32, spread=1.0, seed=0):
    """Embeddings around one centre per class; classes overlap more with a larger spread."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_images)
    centres = np.random.default_rng(1234).standard_normal((num_classes, embedding_dim))
    return unit_rows(centres[labels] + spread * rng.standard_normal((num_images, embedding_dim))), labels


def with_ties(num_images, num_classes, *, seed=0):
    """Rows of ±1/4, whose products are exact in any order of summation and often equal."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 2, (num_images, 16)) / 2 - 0.25).astype(np.float32), rng.integers(
        0, num_classes, num_images
    )


def oracle(queries, query_labels, gallery=None, gallery_labels=None, own_rows=None):
    """Each query's (R, rank of the first hit, R-precision, MAP@R, ranking), written from the definitions."""
    is_self = gallery is None
    others, other_labels = (queries, query_labels) if is_self else (gallery, gallery_labels)
    for i, (query, label) in enumerate(zip(queries, query_labels, strict=True)):
        own = i if is_self else -1 if own_rows is None else own_rows[i]
        candidates = [j for j in range(len(others)) if j != own]
        scores = {j: float(np.dot(query.astype(np.float64), others[j].astype(np.float64))) for j in candidates}
        ranking = sorted(candidates, key=lambda j: (-scores[j], j))
        hits = [other_labels[j] == label for j in ranking]
        num_relevant = sum(hits)
        if num_relevant == 0:
            yield 0, 0, np.nan, np.nan, ranking
            continue
        average = sum(sum(hits[:rank]) / rank * hits[rank - 1] for rank in range(1, num_relevant + 1)) / num_relevant
        yield num_relevant, hits.index(True) + 1, sum(hits[:num_relevant]) / num_relevant, average, ranking


def assert_is(result, expected):
    num_relevant, first_hit_rank, r_precision, map_at_r, rankings = zip(*expected, strict=True)
    np.testing.assert_array_equal(result.num_relevant, num_relevant)
    np.testing.assert_array_equal(result.first_hit_rank, first_hit_rank)
    np.testing.assert_allclose(result.r_precision, r_precision, atol=1e-12)
    np.testing.assert_allclose(result.map_at_r, map_at_r, atol=1e-12)
    for k in KS:
        recall = [np.nan if rank == 0 else float(rank <= k) for rank in first_hit_rank]
        np.testing.assert_array_equal(result.recall_at(k), recall)
    nearest = [ranking[: result.neighbour_ids.shape[1]] for ranking in rankings]
    np.testing.assert_array_equal(result.neighbour_ids, nearest)


@pytest.mark.parametrize(("num_images", "num_classes"), [(90, 4), (90, 60), (40, 1), (3, 2)])
@pytest.mark.parametrize("make", [made, with_ties])
@pytest.mark.parametrize("block_bytes", [1, 2**12, 2**28])
def test_a_set_against_itself_equals_nested_loops(make, num_images, num_classes, block_bytes):
    embeddings, labels = make(num_images, num_classes)

    result = evaluate_retrieval(embeddings, labels, ks=KS, num_neighbours=7, block_bytes=block_bytes)

    assert_is(result, oracle(embeddings, labels))


@pytest.mark.parametrize(("num_gallery", "num_classes"), [(70, 5), (50, 40), (1, 1)])
@pytest.mark.parametrize("make", [made, with_ties])
@pytest.mark.parametrize("block_bytes", [1, 2**12, 2**28])
def test_queries_against_a_gallery_equal_nested_loops(make, num_gallery, num_classes, block_bytes):
    queries, query_labels = make(45, num_classes, seed=1)
    gallery, gallery_labels = make(num_gallery, num_classes, seed=2)

    result = evaluate_retrieval(
        queries, query_labels, gallery, gallery_labels, ks=KS, num_neighbours=9, block_bytes=block_bytes
    )

    assert_is(result, oracle(queries, query_labels, gallery, gallery_labels))


def test_collapsed_embeddings_are_ranked_by_index():
    embeddings = np.full((50, 16), 0.25, np.float32)
    labels = np.arange(50) % 5

    result = evaluate_retrieval(embeddings, labels, ks=KS, num_neighbours=3)

    assert_is(result, oracle(embeddings, labels))
    assert result.neighbour_ids[1].tolist() == [0, 2, 3]


@pytest.mark.parametrize("num_classes", [6, 150])
@pytest.mark.parametrize("is_self", [True, False])
def test_equals_pytorch_metric_learning(num_classes, is_self):
    queries, query_labels = made(300, num_classes, spread=2.0)
    gallery = () if is_self else made(400, num_classes, spread=2.0, seed=1)
    knn = CustomKNN(CosineSimilarity())
    peer = AccuracyCalculator(include=tuple(PEER_METRICS), knn_func=knn, device=torch.device("cpu"))

    ours = summarise(evaluate_retrieval(queries, query_labels, *gallery))["all"]
    theirs = peer.get_accuracy(*map(torch.from_numpy, (queries, query_labels, *gallery)))

    for peer_name, name in PEER_METRICS.items():
        assert ours[name] == pytest.approx(theirs[peer_name], abs=1e-6), name
    assert 0.05 < ours["recall_at_1"] < 0.99  # neither chance nor perfect, so that the comparison is meaningful


def test_perfect_embeddings_score_one():
    labels = np.repeat(np.arange(8), 4)

    result = evaluate_retrieval(np.eye(8, dtype=np.float32)[labels], labels, ks=(1,))

    assert summarise(result) == {
        "all": {"recall_at_1": 1, "r_precision": 1, "map_at_r": 1, "num_queries": 32, "num_left_out": 0}
    }


def test_random_embeddings_score_at_chance():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 100)

    metrics = evaluate_retrieval(unit_rows(rng.standard_normal((2000, 16))), labels).summary()

    # A tolerance of four standard deviations of 2,000 draws.
    assert metrics.recall[1] == pytest.approx(99 / 1999, abs=0.02)
    assert metrics.recall[8] == pytest.approx(1 - (1 - 99 / 1999) ** 8, abs=0.043)
    assert metrics.r_precision == pytest.approx(99 / 1999, abs=0.004)
    assert metrics.map_at_r < 0.01


def test_order_of_the_images_changes_nothing():
    embeddings, labels = made(200, 30)
    order = np.random.default_rng(3).permutation(200)

    straight = evaluate_retrieval(embeddings, labels, ks=KS)
    shuffled = evaluate_retrieval(embeddings[order], labels[order], ks=KS)

    np.testing.assert_array_equal(shuffled.first_hit_rank, straight.first_hit_rank[order])
    np.testing.assert_allclose(shuffled.map_at_r, straight.map_at_r[order], atol=1e-12)
    assert summarise(shuffled)["all"] == pytest.approx(summarise(straight)["all"], abs=1e-12)


def test_order_of_the_gallery_changes_nothing():
    queries, query_labels = made(50, 10)
    gallery, gallery_labels = made(80, 10, seed=1)
    order = np.random.default_rng(3).permutation(80)

    straight = evaluate_retrieval(queries, query_labels, gallery, gallery_labels, num_neighbours=5)
    shuffled = evaluate_retrieval(queries, query_labels, gallery[order], gallery_labels[order], num_neighbours=5)

    np.testing.assert_array_equal(order[shuffled.neighbour_ids], straight.neighbour_ids)
    np.testing.assert_array_equal(shuffled.r_precision, straight.r_precision)


def test_labels_beyond_32_bits_stay_apart():
    embeddings, labels = made(120, 12)
    # Equal in their lower 32 bits, and too close together for float64.
    large = np.where(labels % 2 == 0, labels, labels - 1 + 2**32) + 2**60

    result = evaluate_retrieval(embeddings, large, ks=KS, num_neighbours=7)

    assert_is(result, oracle(embeddings, labels))
    assert result.query_labels.dtype == np.int64


def test_skewed_classes_are_measured_in_blocks_of_their_own_depth():
    """One class of 200 among pairs, small blocks: each query keeps its own R."""
    embeddings, _ = with_ties(300, 1)
    labels = np.random.default_rng(1).permutation(np.concatenate([np.zeros(200, np.int64), 1 + np.arange(100) // 2]))

    result = evaluate_retrieval(embeddings, labels, ks=KS, block_bytes=2**15)

    assert_is(result, oracle(embeddings, labels))


@pytest.mark.parametrize("convert", [torch.from_numpy, np.asfortranarray], ids=["tensor", "fortran order"])
def test_accepts_tensors_and_any_memory_order(convert):
    embeddings, labels = made(60, 10)
    expected = evaluate_retrieval(embeddings, labels)

    result = evaluate_retrieval(convert(embeddings), convert(labels))

    np.testing.assert_array_equal(result.map_at_r, expected.map_at_r)


def test_changes_no_input():
    embeddings, labels = made(60, 10)
    embeddings.flags.writeable = labels.flags.writeable = False

    evaluate_retrieval(embeddings, labels)


def test_autocast_and_reduced_precision_do_not_reach_the_ranking():
    embeddings, labels = made(300, 10, spread=3.0, embedding_dim=256)
    expected = evaluate_retrieval(embeddings, labels, num_neighbours=20)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")

    try:
        with torch.autocast("cpu", torch.bfloat16):
            result = evaluate_retrieval(embeddings, labels, num_neighbours=20)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)

    np.testing.assert_array_equal(result.neighbour_ids, expected.neighbour_ids)
    np.testing.assert_array_equal(result.neighbour_scores, expected.neighbour_scores)


def test_neighbours_come_with_their_cosine():
    embeddings, labels = made(40, 10)

    result = evaluate_retrieval(embeddings, labels, num_neighbours=1000)

    assert result.neighbour_ids.shape == (40, 39)
    assert all(i not in row for i, row in enumerate(result.neighbour_ids))
    scores = np.einsum("qd,qnd->qn", embeddings, embeddings[result.neighbour_ids])
    np.testing.assert_allclose(result.neighbour_scores, scores, atol=1e-6)
    assert (np.diff(result.neighbour_scores, axis=1) <= 0).all()


def test_summarises_seen_and_unseen_apart():
    embeddings, labels = made(200, 20, spread=2.0)
    labels[:3] = [100, 101, 102]
    is_unseen = labels % 2 == 0

    result = evaluate_retrieval(embeddings, labels, ks=(4,))
    metrics = summarise(result, is_unseen)

    assert metrics["unseen"]["num_left_out"] == 2
    assert metrics["seen"]["num_left_out"] == 1
    assert metrics["all"]["num_queries"] == metrics["seen"]["num_queries"] + metrics["unseen"]["num_queries"] == 197
    assert metrics["unseen"]["recall_at_4"] == np.nanmean(result.recall_at(4)[is_unseen])
    assert metrics["seen"]["map_at_r"] == pytest.approx(np.nanmean(result.map_at_r[~is_unseen]), abs=1e-12)
    mean_of_parts = (np.nanmean(result.recall_at(1)[is_unseen]) + np.nanmean(result.recall_at(1)[~is_unseen])) / 2
    assert metrics["all"]["mean_of_parts_recall_at_1"] == pytest.approx(mean_of_parts, abs=1e-12)


def test_parts_without_queries_are_absent():
    embeddings, labels = made(40, 4)
    lone = np.append(labels, 99)
    is_lone = lone == 99

    metrics = summarise(evaluate_retrieval(np.concatenate([embeddings, embeddings[:1]]), lone), is_lone)

    assert set(metrics) == {"all", "seen"}
    assert "mean_of_parts_recall_at_1" not in metrics["all"]


def test_invalid_settings_are_refused():
    embeddings, labels = made(10, 2)

    for knobs in ({"ks": ()}, {"ks": (0,)}, {"num_neighbours": -1}, {"block_bytes": 0}):
        with pytest.raises(ValueError, match="k >= 1"):
            evaluate_retrieval(embeddings, labels, **knobs)
    with pytest.raises(ValueError, match="both"):
        evaluate_retrieval(embeddings, labels, embeddings)


@pytest.mark.parametrize("classes", [np.arange(10), np.arange(1)])
def test_a_set_without_relevant_images_is_refused(classes):
    with pytest.raises(InvalidEmbeddings, match=f"none of the {len(classes)} queries"):
        evaluate_retrieval(np.eye(16, dtype=np.float32)[classes], classes)


def test_other_dimensions_of_the_gallery_are_refused():
    with pytest.raises(InvalidEmbeddings, match="16 dimensions and the gallery 8"):
        evaluate_retrieval(np.eye(16, dtype=np.float32), np.arange(16), np.eye(8, dtype=np.float32), np.arange(8))


@pytest.fixture
def _tf32():
    """Enable TF32, as a training loop may do."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.gpu
@pytest.mark.usefixtures("_tf32")
@pytest.mark.parametrize("make", [made, with_ties])
def test_cuda_equals_cpu(make):
    embeddings, labels = make(1000, 100)

    cpu = evaluate_retrieval(embeddings, labels, ks=KS, num_neighbours=10)
    cuda = evaluate_retrieval(embeddings, labels, ks=KS, num_neighbours=10, device="cuda", block_bytes=2**19)

    # Nearly equal scores may swap places between two matrix libraries, unless every product is exact.
    allowed = 0 if make is with_ties else 0.01
    assert (cuda.first_hit_rank != cpu.first_hit_rank).mean() <= allowed
    assert (cuda.neighbour_ids != cpu.neighbour_ids).mean() <= allowed
    assert (cuda.map_at_r != cpu.map_at_r).mean() <= allowed
    np.testing.assert_allclose(cuda.neighbour_scores, cpu.neighbour_scores, atol=1e-6)
