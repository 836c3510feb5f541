"""The searchable index: immutable, memory-mapped and thread-safe.

Shape legend: N queries, D embedding dimension, K hits.
"""

from pathlib import Path
from typing import Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.candidates import ExactCandidates, IVFCandidates, open_ivf
from index.errors import InvalidIndex, SpaceMismatch
from index.facts import IndexFacts
from index.gpu import Placement, place
from index.product_search import ProductHit, ProductSearch, TimedHits
from index.row_search import Check, Hits, RowSearch
from index.storage import (
    STRUCTURE_NAME,
    UNIT_TOLERANCE,
    IndexEntry,
    first_without_unit_length,
    open_embeddings,
    open_entries,
    read_entry,
    read_index_facts,
)
from index.structures import Structure


class VectorIndex:
    """Embeddings and their entries, ready for searching; create it with `VectorIndex.load`.

    Rows are in the order of their image ids.
    """

    def __init__(
        self, facts: IndexFacts, row_search: RowSearch, entries: pa.Table, placement: Placement | None = None
    ) -> None:
        self.facts = facts
        self.entries = entries
        self._placement = placement
        self._row_search = row_search
        product_numbers_N = entries.column("product_number").combine_chunks().to_numpy()
        self._product_search = ProductSearch(row_search, product_numbers_N, facts.num_products)

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto", verify: bool = True) -> Self:
        """Open an index directory for searching.

        The device "cuda" needs faiss-gpu and a GPU and copies the index to it; "auto" does so if both are available.
        `verify=False` skips the checksums of the files, for an index in an artifact that has just been verified.
        Raises InvalidIndex, MissingFaiss, UnsupportedDevice or GPUMemoryFull.
        """
        facts = read_index_facts(directory, verify=verify)
        structure = facts.structure
        candidates: ExactCandidates | IVFCandidates
        try:
            embeddings_ND = open_embeddings(directory)
            entries = open_entries(directory)
            if structure.name == "exact":
                candidates, num_rows = ExactCandidates(embeddings_ND), len(embeddings_ND)
            else:
                ivf = open_ivf(directory / STRUCTURE_NAME)
                candidates = IVFCandidates(ivf, num_lists=structure.nlist, nprobe=structure.nprobe or 1)
                num_rows = ivf.ntotal
        # What numpy, pyarrow and faiss raise for an invalid file.
        except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
            raise InvalidIndex(f"{directory} cannot be opened: {error}") from error
        shapes = {embeddings_ND.shape, (num_rows, facts.embedding_dim), (entries.num_rows, facts.embedding_dim)}
        if shapes != {(facts.num_rows, facts.embedding_dim)}:
            raise InvalidIndex(f"{directory}: files and manifest disagree about the number of rows or the dimension")
        placement = place(candidates, embeddings_ND, facts, device)
        row_search = RowSearch(embeddings_ND, placement.candidates, rescore=structure.rescore)
        return cls(facts, row_search, entries, placement)

    @property
    def index_id(self) -> str:
        """Id of the contents of this index (16 hex digits)."""
        return self.facts.index_id

    @property
    def space_id(self) -> str:
        """Id of the embedding space, which queries must belong to."""
        return self.facts.space_id

    @property
    def structure(self) -> Structure:
        """The structure of the index."""
        return self.facts.structure

    @property
    def embedding_dim(self) -> int:
        """Length of each embedding."""
        return self.facts.embedding_dim

    @property
    def device(self) -> str:
        """The device that searches the index: "cpu" or "cuda"."""
        return "cuda" if self._placement and self._placement.is_on_gpu else "cpu"

    @property
    def fallback(self) -> str | None:
        """Why the index is on the CPU although the device "auto" was asked for and there is a GPU, or None."""
        return self._placement.fallback if self._placement else None

    @property
    def num_rows(self) -> int:
        """Number of images."""
        return self.facts.num_rows

    @property
    def num_products(self) -> int:
        """Number of distinct products."""
        return self.facts.num_products

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The stored embeddings [N, D], memory-mapped and read-only, in row order."""
        return self._row_search.embeddings

    def entry(self, row: int) -> IndexEntry:
        """Return the entry of one row; raises IndexError for a row outside 0..num_rows - 1, such as -1."""
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row must be within 0..{self.num_rows - 1}, got {row}")
        return read_entry(self.entries, row)

    def image_ids(self) -> list[str]:
        """Return the image id of each row, ascending."""
        return cast(list[str], self.entries.column("image_id").to_pylist())

    def product_ids(self) -> list[str]:
        """Return the product id of each row."""
        return cast(list[str], self.entries.column("product_id").to_pylist())

    def require_space(self, space_id: str) -> None:
        """Raise SpaceMismatch unless embeddings of `space_id` can be compared with these."""
        if space_id != self.space_id:
            raise SpaceMismatch(f"the query belongs to embedding space {space_id!r}, the index to {self.space_id!r}")

    def search(self, queries_ND: NDArray[np.float32], k: int) -> Hits:
        """Return the `k` nearest rows of each query, best first, equal scores in the order of their image ids.

        Queries are float32 [N, D] of unit length; raises SpaceMismatch for any others, since they are not embeddings of
        this space. An IVF structure visits as many lists as needed to find `k` rows.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return self._row_search.search(self._checked(queries_ND), k)

    def search_products(
        self, query_D: NDArray[np.float32], k: int, *, min_score: float | None = None
    ) -> list[ProductHit]:
        """Return the `k` products nearest to one query [D], each as its best row, best first.

        Fewer are returned only if there are fewer products, or fewer with a score of at least `min_score`. Equal scores
        are in the order of their image ids. Raises SpaceMismatch like `search`.
        """
        return self.timed_search_products(query_D, k, min_score=min_score).hits

    def timed_search_products(
        self, query_D: NDArray[np.float32], k: int, *, min_score: float | None = None, check: Check = lambda: None
    ) -> TimedHits:
        """Search like `search_products`, and measure its two stages over all rounds.

        `check` is called between the parts of the search, and ends it by raising an exception.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return self._product_search.search(self._checked(query_D[None])[0], k, min_score, check)

    def _checked(self, queries_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        if queries_ND.ndim != 2 or queries_ND.shape[1] != self.embedding_dim or queries_ND.dtype != np.float32:
            raise SpaceMismatch(
                f"queries must be float32 of dimension {self.embedding_dim}, "
                f"got {queries_ND.dtype} of shape {queries_ND.shape}"
            )
        if wrong := first_without_unit_length(queries_ND):
            number, norm = wrong
            raise SpaceMismatch(
                f"queries must have L2 norm 1 (within {UNIT_TOLERANCE:g}), but that of query {number} is {norm:.6g}"
            )
        return np.ascontiguousarray(queries_ND)
