"""What an index says of itself: the facts of its manifest."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from index.structures import Structure

METRIC = "cosine"


@dataclass(frozen=True, slots=True)
class AnnRecall:
    """Overlap with exact search that was measured when the index was built.

    `value` is the mean share, over `num_queries` queries, of the exact `k` best rows that the index returns;
    below `threshold` the index would not have been written.
    """

    k: int
    value: float
    num_queries: int
    threshold: float


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """The facts of one index; `index_id` names its exact contents (16 hex digits of the manifest's checksum)."""

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
        """Return the value as JSON can hold it."""
        return dataclasses.asdict(self)

    def manifest_facts(self) -> dict[str, object]:
        """Return what the manifest states: all but the id, which is the manifest's own checksum."""
        return {name: value for name, value in self.to_json().items() if name != "index_id"}

    @classmethod
    def from_manifest(cls, stored: Mapping[str, object], index_id: str) -> Self:
        """Read what the manifest states; raises KeyError, TypeError or ValueError for anything unexpected."""
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
            raise ValueError(f"metric {facts.metric!r} in place of {METRIC!r}")
        if facts.structure.nprobe is None:
            raise ValueError("a structure without nprobe")
        return facts


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"an object in place of {value!r}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number in place of {value!r}")
    return value
