"""The facts of an index, as its manifest states them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from index.structures import Structure

METRIC = "cosine"


@dataclass(frozen=True, slots=True)
class AnnRecall:
    """Overlap with exact search, measured when the index was built.

    `value` is the share of the exact `k` nearest rows that the index returns, averaged over `num_queries` queries; an
    index below `threshold` is not written.
    """

    k: int
    value: float
    num_queries: int
    threshold: float


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """The facts of one index; `index_id` identifies its contents (16 hex digits of the manifest's checksum)."""

    index_id: str
    space_id: str
    structure: Structure
    num_rows: int
    num_products: int
    embedding_dim: int
    ann_recall: AnnRecall
    faiss_version: str
    build_seconds: float
    metric: str = METRIC

    def to_json(self) -> dict[str, object]:
        """Return the facts as a JSON object."""
        return dataclasses.asdict(self)

    def manifest_facts(self) -> dict[str, object]:
        """Return the facts stored in the manifest: all but the id, which is the manifest's checksum."""
        return {name: value for name, value in self.to_json().items() if name != "index_id"}

    @classmethod
    def from_manifest(cls, stored: Mapping[str, object], index_id: str) -> Self:
        """Read the facts stored in a manifest; raises KeyError, TypeError or ValueError for unexpected content."""
        ann_recall = _mapping(stored["ann_recall"])
        facts = cls(
            index_id=index_id,
            space_id=str(stored["space_id"]),
            structure=Structure.from_json(_mapping(stored["structure"])),
            num_rows=int(_number(stored["num_rows"])),
            num_products=int(_number(stored["num_products"])),
            embedding_dim=int(_number(stored["embedding_dim"])),
            ann_recall=AnnRecall(
                k=int(_number(ann_recall["k"])),
                value=_number(ann_recall["value"]),
                num_queries=int(_number(ann_recall["num_queries"])),
                threshold=_number(ann_recall["threshold"]),
            ),
            faiss_version=str(stored["faiss_version"]),
            build_seconds=_number(stored["build_seconds"]),
            metric=str(stored["metric"]),
        )
        if facts.metric != METRIC:
            raise ValueError(f"the metric is {facts.metric!r}, expected {METRIC!r}")
        if facts.structure.nprobe is None:
            raise ValueError("the structure has no nprobe")
        return facts


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return value
