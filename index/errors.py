"""What can go wrong between embeddings and hits.

VectorIndexError
├── InvalidIndex        a directory that is damaged, incomplete or of another kind
├── LowRecall           a built index finds too few of the rows that an exact search finds
├── SpaceMismatch       queries that are no embeddings of the index's space
├── UnsupportedDevice   a device that this machine, or this build of faiss, does not have
└── MissingFaiss        no usable faiss is installed
"""

from typing import ClassVar


class VectorIndexError(Exception):
    """Base of every error of this room; its message is safe to show to a client."""

    code: ClassVar[str] = "vector-index-error"


class InvalidIndex(VectorIndexError):
    """An index directory is damaged, incomplete or of another kind."""

    code = "invalid-index"


class LowRecall(VectorIndexError):
    """An index reaches less than the required share of what an exact search finds, and was not written."""

    code = "low-recall"


class SpaceMismatch(VectorIndexError):
    """The queries are no embeddings of the space that the index was built in."""

    code = "space-mismatch"


class UnsupportedDevice(VectorIndexError):
    """This machine, or this build of faiss, lacks the device."""

    code = "unsupported-device"


class MissingFaiss(VectorIndexError):
    """No usable faiss is installed; the message names the command."""

    code = "missing-faiss"
