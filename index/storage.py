"""The files of an index directory, an artifact of kind "akin-index/1".

embeddings.npy    float32 [N, D], rows of L2 norm 1, memory-mapped for searching
entries.arrow     for each row: image_id, product_id, product_number (dense code), attributes (JSON)
structure.faiss   the trained structure, memory-mapped; only if the structure is not `exact`
manifest.json     facts (index.facts) and checksums

Rows are sorted by image id, so that ties broken by row are ties broken by image id.
Shape legend: N rows, D embedding dimension.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedding.artifact import read_manifest, verify_artifact
from embedding.errors import InvalidArtifact
from index.errors import InvalidIndex
from index.facts import IndexFacts

KIND = "akin-index/1"
EMBEDDINGS_NAME = "embeddings.npy"
ENTRIES_NAME = "entries.arrow"
STRUCTURE_NAME = "structure.faiss"

# Largest accepted deviation of an L2 norm from 1; the output of a network in half precision is within it.
UNIT_TOLERANCE = 1e-3

_DTYPE = np.dtype("<f4")
_ROWS_PER_PIECE = 16_384
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("product_id", pa.string()),
        ("product_number", pa.int32()),
        ("attributes", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One row without its embedding; `attributes` are JSON values for filters."""

    image_id: str
    product_id: str
    attributes: Mapping[str, object] = field(default_factory=dict)


def write_embeddings(
    directory: Path, embeddings_ND: NDArray[np.float32], order: NDArray[np.int64], image_ids: Sequence[str]
) -> None:
    """Write the embeddings in `order`, piece by piece, so that they may be larger than memory.

    `image_ids` are in the order written. Raises ValueError, naming the image, for an embedding that is not finite or
    does not have unit length.
    """
    header = {"descr": _DTYPE.str, "fortran_order": False, "shape": (len(order), embeddings_ND.shape[1])}
    with (directory / EMBEDDINGS_NAME).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in pieces(len(order)):
            piece = np.ascontiguousarray(embeddings_ND[order[part]], dtype=_DTYPE)
            if wrong := first_without_unit_length(piece):
                row, norm = wrong
                raise ValueError(
                    f"the embedding of image {image_ids[part.start + row]!r} must be finite with L2 norm 1, "
                    f"got norm {norm:.6g}"
                )
            file.write(piece.data)


def first_without_unit_length(embeddings_ND: NDArray[np.float32]) -> tuple[int, float] | None:
    """Return the first row whose L2 norm is not 1 within UNIT_TOLERANCE, and its norm; None if there is none."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms_N = np.sqrt(np.einsum("nd,nd->n", embeddings_ND, embeddings_ND))
    # Negated, so that NaN counts as wrong.
    wrong = np.flatnonzero(~(np.abs(norms_N - 1) <= UNIT_TOLERANCE))
    return (int(wrong[0]), float(norms_N[wrong[0]])) if len(wrong) else None


def open_embeddings(directory: Path) -> NDArray[np.float32]:
    """Memory-map the embeddings [N, D] read-only; raises ValueError or OSError for any other content."""
    path = directory / EMBEDDINGS_NAME
    # An empty array cannot be mapped.
    mapped = np.load(path, mmap_mode="r" if _has_rows(path) else None, allow_pickle=False)
    embeddings = np.asarray(mapped)
    if embeddings.ndim != 2 or embeddings.dtype != _DTYPE or not embeddings.flags.c_contiguous:
        raise ValueError(f"{path} holds {embeddings.dtype} {embeddings.shape}, not float32 [rows, dimension]")
    return cast(NDArray[np.float32], embeddings)


def write_entries(directory: Path, entries: Sequence[IndexEntry]) -> int:
    """Write `entries`, which must be sorted by image id; return the number of distinct products."""
    numbers: dict[str, int] = {}
    with pa.OSFile(str(directory / ENTRIES_NAME), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for part in pieces(len(entries)):
            piece = entries[part]
            columns = [
                [entry.image_id for entry in piece],
                [entry.product_id for entry in piece],
                [numbers.setdefault(entry.product_id, len(numbers)) for entry in piece],
                [_attributes_json(entry) for entry in piece],
            ]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
    return len(numbers)


def open_entries(directory: Path) -> pa.Table:
    """Memory-map the table of entries; raises ValueError or OSError for any other content."""
    table = pa.ipc.open_file(pa.memory_map(str(directory / ENTRIES_NAME))).read_all()
    if table.schema != _SCHEMA:
        raise ValueError(f"{directory / ENTRIES_NAME} has the columns {table.schema.names}, expected {_SCHEMA.names}")
    return table


def read_entry(entries: pa.Table, row: int) -> IndexEntry:
    """Return one row of the table of entries."""
    image_id, product_id, attributes = (
        str(entries.column(name)[row].as_py()) for name in ("image_id", "product_id", "attributes")
    )
    return IndexEntry(image_id, product_id, json.loads(attributes))


def read_index_facts(directory: Path, *, verify: bool = True) -> IndexFacts:
    """Return the facts of an index after verifying its checksums.

    With `verify=False` only the manifest is verified, for an index within an artifact that has just been verified.
    Raises InvalidIndex.
    """
    try:
        manifest = read_manifest(directory, KIND)
        if verify:
            verify_artifact(directory, KIND)
        facts = manifest["facts"]
        assert isinstance(facts, dict)
        return IndexFacts.from_manifest(facts, str(manifest["sha256"])[:16])
    except InvalidArtifact as error:
        raise InvalidIndex(str(error)) from error
    except OSError as error:
        raise InvalidIndex(f"{directory} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidIndex(
            f"{directory}: the manifest states facts that this version of Akin cannot read: {error}"
        ) from error


def pieces(num_rows: int) -> Iterator[slice]:
    """Yield slices that cover `num_rows` rows, each small enough to copy into memory."""
    for start in range(0, num_rows, _ROWS_PER_PIECE):
        yield slice(start, min(start + _ROWS_PER_PIECE, num_rows))


def _has_rows(path: Path) -> bool:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path} has version {version} of the npy format, expected (1, 0)")
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return 0 not in shape


def _attributes_json(entry: IndexEntry) -> str:
    try:
        return json.dumps(dict(entry.attributes), sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the attributes of image {entry.image_id!r} are not valid JSON: {error}") from error
