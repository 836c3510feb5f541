"""Errors between embeddings and hits.

VectorIndexError
├── InvalidIndex        an index directory that is damaged, incomplete or of another kind
├── LowRecall           a built index that finds too few of the rows found by an exact search
├── SpaceMismatch       queries that are not embeddings of the index's space
├── UnsupportedDevice   a device that this machine or this build of faiss does not support
├── GPUMemoryFull       an index that does not fit into the free memory of the GPU
└── MissingFaiss        faiss is not installed or not usable
"""

from typing import ClassVar


class VectorIndexError(Exception):
    """Base of all errors of this package; the message is safe to show to clients."""

    code: ClassVar[str] = "vector-index-error"


class InvalidIndex(VectorIndexError):
    """An index directory is damaged, incomplete or of another kind."""

    code = "invalid-index"


class LowRecall(VectorIndexError):
    """The recall of a built index against exact search is below the threshold; the index was not written."""

    code = "low-recall"


class SpaceMismatch(VectorIndexError):
    """The queries are not embeddings of the space that the index was built in."""

    code = "space-mismatch"


class UnsupportedDevice(VectorIndexError):
    """This machine or this build of faiss does not support the device."""

    code = "unsupported-device"


class GPUMemoryFull(VectorIndexError):
    """The index does not fit into the free memory of the GPU; the message contains both sizes and the remedies."""

    code = "gpu-memory-full"


class MissingFaiss(VectorIndexError):
    """faiss is not installed or not usable; the message contains the command that installs it."""

    code = "missing-faiss"
