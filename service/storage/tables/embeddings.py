"""Stored embeddings."""

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table


class StoredEmbedding(Table):
    """The embedding of a stored image in one embedding space: little-endian float32."""

    __tablename__ = "embeddings"

    space_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    embedding: Mapped[bytes] = mapped_column(LargeBinary)
