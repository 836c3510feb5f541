"""What can go wrong with stored embeddings.

ServiceError
└── MissingEmbeddings  embeddings that should be stored are not
"""

from service.errors import ServiceError


class MissingEmbeddings(ServiceError):
    """Embeddings of a space are missing that an index needs."""

    code = "missing-embeddings"
