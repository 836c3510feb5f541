"""Errors of stored embeddings.

ServiceError
└── MissingEmbeddings  embeddings that an index needs are not stored
"""

from service.errors import ServiceError


class MissingEmbeddings(ServiceError):
    """Embeddings that an index needs are not stored."""

    code = "missing-embeddings"
