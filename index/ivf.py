"""Train an IVF structure: k-means centres, and the rows of each group in compressed form.

Shape legend: N rows, D embedding dimension.
"""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.faiss_library import load_faiss
from index.gpu import clustering_index_on
from index.storage import pieces
from index.structures import Structure

log = logging.getLogger(__name__)

# More rows a centre hardly move the centres; k-means takes rows × centres × dimension operations a round.
_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ROUNDS = 10


def write_ivf(path: Path, embeddings_ND: NDArray[np.float32], structure: Structure, *, seed: int, device: str) -> None:
    """Train the structure on a sample of the rows, add all rows and write the file.

    On one machine, equal rows, structure and seed give equal bytes. Raises UnsupportedDevice.
    """
    faiss = load_faiss()
    num_rows, embedding_dim = embeddings_ND.shape
    formats = {"float16": faiss.ScalarQuantizer.QT_fp16, "sq8": faiss.ScalarQuantizer.QT_8bit}
    ivf = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(embedding_dim),
        embedding_dim,
        structure.nlist,
        formats[structure.storage],
        faiss.METRIC_INNER_PRODUCT,
        False,  # rows themselves and not their offsets from the centres: as good here, and quicker to score
    )
    ivf.cp.seed = seed % 2**31
    ivf.cp.niter = _TRAINING_ROUNDS
    ivf.cp.spherical = True
    # K-means shall see the whole sample, whatever faiss thinks of its size.
    ivf.cp.min_points_per_centroid = 1
    ivf.cp.max_points_per_centroid = num_rows
    training_ND = _training_rows(embeddings_ND, structure, seed)
    log.info("training %d centres on %d rows", structure.nlist, len(training_ND))
    # None, on the CPU, lets faiss use the structure's own centres.
    ivf.clustering_index = clustering_index_on(device, embedding_dim)
    ivf.train(training_ND)
    ivf.clustering_index = None
    for part in pieces(num_rows):
        ivf.add(np.ascontiguousarray(embeddings_ND[part]))
    faiss.write_index(ivf, str(path))


def _training_rows(embeddings_ND: NDArray[np.float32], structure: Structure, seed: int) -> NDArray[np.float32]:
    num_rows = len(embeddings_ND)
    num_training = min(num_rows, _TRAINING_ROWS_PER_LIST * structure.nlist)
    chosen = np.random.default_rng(seed).choice(num_rows, num_training, replace=False)
    return np.ascontiguousarray(embeddings_ND[np.sort(chosen)])
