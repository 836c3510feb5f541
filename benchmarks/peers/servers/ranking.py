"""Exact search over the catalogue's embeddings.

Shape legend: N images, D embedding dimension.
"""

import json
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

EMBEDDINGS_NAME = "embeddings.npy"
PRODUCT_IDS_NAME = "product_ids.json"

Hit = dict[str, str | float]


class Ranking:
    """Unit embeddings [N, D] and the product id of each row."""

    def __init__(self, embeddings_ND: NDArray[np.float32], product_ids: list[str]) -> None:
        if len(embeddings_ND) != len(product_ids):
            raise ValueError(f"{len(embeddings_ND)} embeddings have {len(product_ids)} product ids")
        self._embeddings_ND = embeddings_ND
        self._product_ids = product_ids

    @classmethod
    def read(cls, files: Path) -> Self:
        """Read the catalogue from the folder of the driver."""
        return cls(np.load(files / EMBEDDINGS_NAME), json.loads((files / PRODUCT_IDS_NAME).read_text()))

    def best(self, embedding_D: NDArray[np.float32], k: int) -> list[Hit]:
        """Return the `k` products of the highest cosine, best first; of equal ones the first row comes first."""
        scores = self._embeddings_ND @ embedding_D
        k = min(k, len(scores))
        if k == 0:
            return []
        rows = np.argpartition(-scores, k - 1)[:k]
        rows = rows[np.lexsort((rows, -scores[rows]))]
        return [{"product_id": self._product_ids[row], "score": float(scores[row])} for row in rows]
