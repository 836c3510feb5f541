"""How the rows of an index are laid out for searching, and who decides it.

* `exact`: every query is compared with every row. No training, no loss; the choice below about 50,000 rows.
* `ivf`: rows are grouped around `nlist` centres in compressed `storage`, a query looks into the `nprobe` nearest
  groups, and the best candidates are scored again exactly.
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

# Above this many rows the compressed rows should take one byte a dimension, not two.
_SQ8_ABOVE = 1_000_000
# faiss asks for 39 training rows a centre; with fewer, k-means gives centres of one or two rows.
_ROWS_PER_LIST = 39


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What a caller may ask of an index; "auto" and None leave the choice to the number of rows.

    `storage`, `nlist`, `nprobe` and `rescore` describe an IVF structure and mean nothing where `exact` is chosen.

    Args:
        nlist: Number of groups; at most the number of rows.
        nprobe: Groups that a query looks into; None takes the fewest whose measured recall is comfortably enough.
        exact_below: Number of rows from which on "auto" takes `ivf`.
        rescore: Candidates per hit that are fetched from the compressed rows and scored again exactly.
        min_ann_recall: Share of an exact search's `recall_k` best rows that the index has to find.
        device: Where centres are trained; the index that comes out serves on any device.
        seed: Of the training rows, the centres and the measured queries.
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
            raise ValueError(f"an exact structure keeps float32 rows; storage {self.storage!r} needs structure 'ivf'")


@dataclass(frozen=True, slots=True)
class Structure:
    """The layout that was decided on, as the manifest states it.

    An exact structure is one group that every query looks into. `nprobe` is None only while it is being chosen.
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
            raise ValueError(f"nlist={self.nlist}, nprobe={self.nprobe}, rescore={self.rescore} fit no structure")
        if (self.name == "exact") != (self.storage == "float32"):
            raise ValueError(f"structure {self.name!r} cannot have storage {self.storage!r}")

    def to_json(self) -> dict[str, object]:
        """Return the value as the manifest states it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Self:
        """Read a stored value; raises TypeError or ValueError for what this version does not know."""
        return cls(**cast(dict[str, Any], stored))  # checked by __post_init__


def choose_structure(num_rows: int, embedding_dim: int, options: IndexOptions) -> Structure:
    """Decide how `num_rows` embeddings are laid out; `options` override each part of the decision.

    No rows at all are always `exact`: there is nothing to train on. Raises ValueError for an `nlist` above the
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
    """Return the power of two near 4·√rows that leaves every group enough rows to be trained on."""
    wanted = round(math.log2(4 * math.sqrt(num_rows)))
    most = math.floor(math.log2(max(1, num_rows // _ROWS_PER_LIST)))
    return int(2 ** min(wanted, most))


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
