"""The structures of an index, and the choice between them.

* `exact`: every query is compared with every row. No training and no loss; the default below 50,000 rows.
* `ivf`: rows are divided into `nlist` lists around centroids, in compressed `storage`; a query visits the `nprobe`
  nearest lists, and the best candidates are scored again exactly.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

StructureName = Literal["exact", "ivf"]
StorageName = Literal["float32", "float16", "sq8"]
StructureChoice = Literal["auto", "exact", "ivf"]
StorageChoice = Literal["auto", "float16", "sq8"]
DeviceChoice = Literal["auto", "cpu", "cuda"]

# Above this number of rows, compressed rows take one byte per dimension instead of two.
_SQ8_ABOVE = 1_000_000
# faiss recommends 39 training rows per centroid; with fewer, k-means yields centroids of one or two rows.
_ROWS_PER_LIST = 39


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """Options of a build; "auto" and None are chosen from the number of rows.

    `storage`, `nlist`, `nprobe` and `rescore` apply to an IVF structure and are ignored if `exact` is chosen.

    Args:
        nlist: Number of lists, at most the number of rows.
        nprobe: Number of lists that a query visits; None chooses the smallest with enough measured recall.
        exact_below: With structure "auto", indexes of fewer rows are `exact`, others `ivf`.
        rescore: Candidates per hit that are fetched by compressed rows and scored again exactly.
        min_ann_recall: Smallest accepted share of the exact `recall_k` nearest rows that the index finds.
        device: Device that trains the centroids; the index can be searched on any device.
        seed: Seed of the training rows, the centroids and the measured queries.
    """

    structure: StructureChoice = "auto"
    storage: StorageChoice = "auto"
    nlist: int | None = None
    nprobe: int | None = None
    exact_below: int = 50_000
    rescore: int = 4
    min_ann_recall: float = 0.95
    recall_k: int = 10
    device: DeviceChoice = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("structure", StructureChoice), ("storage", StorageChoice), ("device", DeviceChoice)):
            _require_one_of(name, getattr(self, name), get_args(choices))
        for name in ("nlist", "nprobe", "rescore", "recall_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.nlist is not None and self.nprobe is not None and self.nprobe > self.nlist:
            raise ValueError(f"nprobe must be at most nlist ({self.nlist}), got {self.nprobe}")
        if self.exact_below < 0 or self.seed < 0:
            raise ValueError(
                f"exact_below and seed must be at least 0, got exact_below={self.exact_below}, seed={self.seed}"
            )
        if not 0 <= self.min_ann_recall <= 1:
            raise ValueError(f"min_ann_recall must be within 0..1, got {self.min_ann_recall}")
        if self.structure == "exact" and self.storage != "auto":
            raise ValueError(f"an exact structure stores float32 rows; storage {self.storage!r} needs structure 'ivf'")


@dataclass(frozen=True, slots=True)
class Structure:
    """The chosen structure, as the manifest states it.

    An exact structure has one list, which every query visits. `nprobe` is None only until it is chosen.
    """

    name: StructureName
    storage: StorageName = "float32"
    nlist: int = 1
    nprobe: int | None = 1
    rescore: int = 1

    def __post_init__(self) -> None:
        _require_one_of("structure", self.name, get_args(StructureName))
        _require_one_of("storage", self.storage, get_args(StorageName))
        nprobe = 1 if self.nprobe is None else self.nprobe
        if not 1 <= nprobe <= self.nlist or self.rescore < 1:
            raise ValueError(
                f"nprobe must be within 1..nlist and rescore at least 1, got nlist={self.nlist}, nprobe={self.nprobe}, "
                f"rescore={self.rescore}"
            )
        if (self.name == "exact") != (self.storage == "float32"):
            raise ValueError(f"structure {self.name!r} cannot have storage {self.storage!r}")

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that the manifest stores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Self:
        """Read a stored value; raises TypeError or ValueError for unknown names or values."""
        return cls(**cast(dict[str, Any], stored))  # checked by __post_init__


def choose_structure(num_rows: int, embedding_dim: int, options: IndexOptions) -> Structure:
    """Choose the structure for `num_rows` embeddings; `options` override each part of the choice.

    An empty index is always `exact`, since there is nothing to train on. Raises ValueError for an `nlist` above the
    number of rows.
    """
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
    is_small = num_rows < options.exact_below
    if num_rows == 0 or options.structure == "exact" or (options.structure == "auto" and is_small):
        return Structure("exact")
    nlist = options.nlist or _default_nlist(num_rows)
    if nlist > num_rows:
        raise ValueError(f"nlist must be at most the number of rows ({num_rows}), got {nlist}")
    storage: StorageName = "sq8" if num_rows > _SQ8_ABOVE else "float16"
    if options.storage != "auto":
        storage = options.storage
    nprobe = None if options.nprobe is None else min(options.nprobe, nlist)
    return Structure("ivf", storage, nlist, nprobe, options.rescore)


def _default_nlist(num_rows: int) -> int:
    """Return the power of two nearest to 4·√rows that leaves every list enough training rows."""
    wanted = round(math.log2(4 * math.sqrt(num_rows)))
    most = math.floor(math.log2(max(1, num_rows // _ROWS_PER_LIST)))
    return int(2 ** min(wanted, most))


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
