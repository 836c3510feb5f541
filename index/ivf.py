"""Train an IVF structure: k-means centroids, and lists of compressed rows.

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

# More training rows per centroid hardly improve the centroids; a round of k-means takes rows × centroids × dimension
# operations.
_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ROUNDS = 10


def write_ivf(path: Path, embeddings_ND: NDArray[np.float32], structure: Structure, *, seed: int, device: str) -> None:
    """Train the structure on a sample of the rows, add all rows and write the file.

    On the same machine, equal rows, structure and seed give equal bytes. Raises UnsupportedDevice.
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
        False,  # store rows instead of residuals: as accurate here, and faster to score
    )
    ivf.cp.seed = seed % 2**31
    ivf.cp.niter = _TRAINING_ROUNDS
    ivf.cp.spherical = True
    # Train on the whole sample, without the limits that faiss sets on its size.
    ivf.cp.min_points_per_centroid = 1
    ivf.cp.max_points_per_centroid = num_rows
    training_ND = _training_rows(embeddings_ND, structure, seed)
    log.info("training %d centroids on %d rows", structure.nlist, len(training_ND))
    # On the CPU this is None, and faiss uses the quantiser of the structure.
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
