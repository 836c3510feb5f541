"""Exact retrieval metrics: every query against the whole gallery, in blocks within a memory bound.

Shape legend: Q queries, G gallery images, D embedding dimension, B queries of a block, K ranks, N stored images.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding.runtimes.network import choose_device
from training.errors import InvalidEmbeddings
from training.evaluation.inputs import Embeddings, Labels, as_embeddings, as_labels
from training.evaluation.metrics import RetrievalResult, map_at_r, r_precision
from training.evaluation.ranking import LabelledGallery, first_hit_ranks, rank

_BLOCK_BYTES = 2**28

# Peak memory per query and rank: ids, scores, hits and float64 precisions.
_BYTES_PER_RANK = 64


def evaluate_retrieval(
    query_embeddings: Embeddings,
    query_labels: Labels,
    gallery_embeddings: Embeddings | None = None,
    gallery_labels: Labels | None = None,
    *,
    own_rows: NDArray[np.int64] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    num_neighbours: int = 0,
    device: str = "cpu",
    block_bytes: int = _BLOCK_BYTES,
) -> RetrievalResult:
    """Rank the gallery by cosine for each query and compute the metrics.

    Arithmetic is float32; of equal scores the lower gallery index comes first. Queries without a relevant image are
    excluded from the averages.

    Args:
        query_embeddings: [Q, D], rows of length 1.
        query_labels: integers [Q].
        gallery_embeddings: [G, D]; None searches the queries among themselves, each excluded from its own answer.
        gallery_labels: integers [G]; None if and only if the embeddings are None.
        own_rows: integers [Q], the row of the gallery that is the query itself, which is excluded from its answer; -1
            if there is none. Must be None without a gallery.
        ks: the k of recall@k; may exceed the gallery.
        num_neighbours: the number of nearest images to store for each query.
        device: "cpu", "cuda", "cuda:1", ... or "auto".
        block_bytes: approximate memory beside embeddings and results. It does not change the results, except for the
            last bit where the matrix library rounds blocks of another height differently.

    Raises InvalidEmbeddings for invalid embeddings or labels, UnsupportedDevice.
    """
    if (gallery_embeddings is None) != (gallery_labels is None):
        raise ValueError("give both gallery_embeddings and gallery_labels, or neither")
    if not ks or min(ks) < 1 or num_neighbours < 0 or block_bytes < 1:
        raise ValueError(
            f"want each k >= 1, num_neighbours >= 0 and block_bytes >= 1, got {ks}, {num_neighbours}, {block_bytes}"
        )
    torch_device = choose_device(device, "float32")
    queries_QD = as_embeddings(query_embeddings, "query", torch_device)
    labels = as_labels(query_labels, "query", len(queries_QD))
    if gallery_embeddings is None or gallery_labels is None:
        if own_rows is not None:
            raise ValueError("own_rows are rows of a gallery; give gallery_embeddings, or leave them out")
        gallery = LabelledGallery(queries_QD, labels)
        own_rows = np.arange(len(labels))
    else:
        gallery = _separate_gallery(queries_QD, gallery_embeddings, gallery_labels)
        own_rows = _checked_own_rows(own_rows, len(labels), len(gallery))
    with _exact_float32():
        return _search(queries_QD, labels, gallery, own_rows, tuple(sorted(set(ks))), num_neighbours, block_bytes)


def summarise(result: RetrievalResult, is_unseen: NDArray[np.bool_] | None = None) -> dict[str, dict[str, float]]:
    """Return {"all", "seen", "unseen"} → metric → value; parts without queries are absent.

    If both parts exist, "all" also contains `mean_of_parts_recall_at_1`, their mean with equal weights.
    """
    metrics = {"all": result.summary().metrics()}
    if is_unseen is None:
        return metrics
    parts = {"seen": ~is_unseen, "unseen": is_unseen}
    metrics |= {name: part.metrics() for name, mask in parts.items() if (part := result.subset(mask)).num_queries}
    if metrics.keys() >= parts.keys():
        recall = result.recall_at(1)
        means = [float(recall[mask & result.is_counted].mean()) for mask in parts.values()]
        metrics["all"]["mean_of_parts_recall_at_1"] = sum(means) / 2
    return metrics


def _separate_gallery(queries_QD: Tensor, embeddings: Embeddings, labels: Labels) -> LabelledGallery:
    gallery_GD = as_embeddings(embeddings, "gallery", queries_QD.device)
    if queries_QD.shape[1] != gallery_GD.shape[1]:
        raise InvalidEmbeddings(
            f"queries have {queries_QD.shape[1]} dimensions and the gallery {gallery_GD.shape[1]};"
            " embed both with the same model"
        )
    return LabelledGallery(gallery_GD, as_labels(labels, "gallery", len(gallery_GD)))


def _checked_own_rows(own_rows: NDArray[np.int64] | None, num_queries: int, num_gallery: int) -> NDArray[np.int64]:
    if own_rows is None:
        return np.full(num_queries, -1)
    if own_rows.shape != (num_queries,) or not np.issubdtype(own_rows.dtype, np.signedinteger):
        raise InvalidEmbeddings(
            f"own rows of type {own_rows.dtype} and shape {own_rows.shape} for {num_queries} queries; give one integer "
            "per query, -1 where the gallery does not hold it"
        )
    outside = (own_rows < -1) | (own_rows >= num_gallery)
    if outside.any():
        query = int(outside.argmax())
        raise InvalidEmbeddings(
            f"own row {own_rows[query]} of query {query} is not a row of a gallery of {num_gallery}; give -1 where the "
            "gallery does not hold the query"
        )
    return own_rows.astype(np.int64, copy=False)


def _search(
    queries_QD: Tensor,
    labels: NDArray[np.int64],
    gallery: LabelledGallery,
    own_rows: NDArray[np.int64],
    ks: tuple[int, ...],
    num_neighbours: int,
    block_bytes: int,
) -> RetrievalResult:
    codes = gallery.codes_of(labels)
    has_own = own_rows >= 0
    # If the query's own row has another label, excluding it removes no hit.
    num_relevant = gallery.counts_of(codes) - (has_own & (gallery.codes[own_rows] == codes))
    if not (num_relevant > 0).any():
        raise InvalidEmbeddings(
            f"none of the {len(labels)} queries has an image of its class to find;"
            " give a gallery with the queries' classes, or two images of some class"
        )
    num_queries = len(labels)
    num_neighbours = min(num_neighbours, len(gallery) - bool(has_own.any()))
    result = RetrievalResult(
        ks=ks,
        query_labels=labels,
        num_relevant=num_relevant,
        first_hit_rank=np.zeros(num_queries, np.int64),
        r_precision=np.zeros(num_queries),
        map_at_r=np.zeros(num_queries),
        neighbour_ids=np.zeros((num_queries, num_neighbours), np.int64),
        neighbour_scores=np.zeros((num_queries, num_neighbours), np.float32),
    )
    height = min(num_queries, max(1, block_bytes // (4 * len(gallery))))
    # Reused by every block: allocating fresh pages would cost a quarter of the product's time.
    buffer = queries_QD.new_empty(height * len(gallery))
    for ids, num_ranks in _blocks(np.maximum(num_relevant, max(num_neighbours, 1)), len(gallery), block_bytes):
        ids_B = torch.from_numpy(ids).to(queries_QD.device)
        scores_BG = buffer[: len(ids) * len(gallery)].view(len(ids), len(gallery))
        torch.mm(queries_QD[ids_B], gallery.embeddings_GD.T, out=scores_BG)
        left_out = np.flatnonzero(has_own[ids])
        if len(left_out):
            places = np.stack([left_out, own_rows[ids[left_out]]])
            scores_BG[tuple(torch.from_numpy(places).to(scores_BG.device))] = -torch.inf
        _measure_block(result, ids, codes[ids], scores_BG, gallery, num_ranks)
    return result


def _blocks(depths: NDArray[np.int64], num_gallery: int, block_bytes: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield the queries of each block and the number of ranks they need.

    Queries are ordered by that number, so that one large class does not make all blocks deep.
    """
    order = np.argsort(-depths, kind="stable")
    start = 0
    while start < len(order):
        num_ranks = int(depths[order[start]])
        height = max(1, block_bytes // (4 * num_gallery + _BYTES_PER_RANK * num_ranks))
        yield order[start : start + height], num_ranks
        start += height


def _measure_block(
    result: RetrievalResult,
    ids: NDArray[np.int64],
    codes: NDArray[np.int64],
    scores_BG: Tensor,
    gallery: LabelledGallery,
    num_ranks: int,
) -> None:
    """Write the results of the queries `ids`."""
    codes_B = torch.from_numpy(codes).to(scores_BG.device)
    num_relevant_B = torch.from_numpy(result.num_relevant[ids]).to(scores_BG.device)
    ranked_BK = rank(scores_BG, num_ranks)
    # Excluded rows come last, and are not hits if the ranking reaches them.
    is_hit_BK = (gallery.codes_G[ranked_BK] == codes_B[:, None]) & ~scores_BG.gather(1, ranked_BK).isneginf()
    first_hits_B = first_hit_ranks(scores_BG, is_hit_BK, codes_B, num_relevant_B > 0, gallery)
    result.first_hit_rank[ids] = first_hits_B.cpu().numpy()
    # Without relevant images this is 0 / 0, which is NaN.
    result.r_precision[ids] = r_precision(is_hit_BK, num_relevant_B).cpu().numpy()
    result.map_at_r[ids] = map_at_r(is_hit_BK, num_relevant_B).cpu().numpy()
    nearest_BN = ranked_BK[:, : result.neighbour_ids.shape[1]]
    result.neighbour_ids[ids] = nearest_BN.cpu().numpy()
    result.neighbour_scores[ids] = scores_BG.gather(1, nearest_BN).cpu().numpy()


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Use full float32 precision even if a training loop reduced it; autocast does not apply to `mm(out=)`."""
    # The module `mkldnn` replaces itself with an object whose attributes are not typed.
    mkldnn: Any = torch.backends.mkldnn
    backends = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.inference_mode():
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
