"""Tables of the database.

Two invariants that every reader relies on:

* `change_seq` is taken from the one row of `change_counter` inside the writing transaction. That row stays locked
  until the commit, so on every database the order of the numbers is the order in which changes become visible, and
  "all changes up to n" is a snapshot.
* Nothing is deleted from products and pictures; `deleted_at` marks what is gone, under a new `change_seq`.
"""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CATALOGUE = "catalogue"  # indexed and shown in results
EXAMPLE = "example"  # trains and evaluates, is never returned
ROLES = (CATALOGUE, EXAMPLE)

_Timestamp = DateTime(timezone=True)


class Table(DeclarativeBase):
    """Base of all tables."""


class Product(Table):
    """A thing that the shop sells. Its label is its id unless another is given."""

    __tablename__ = "products"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    title: Mapped[str] = mapped_column(String(1000))
    attributes: Mapped[dict[str, object]] = mapped_column(JSON)
    label: Mapped[str | None] = mapped_column(String(200))
    change_seq: Mapped[int] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    deleted_at: Mapped[datetime | None] = mapped_column(_Timestamp)


class ProductImage(Table):
    """A picture of a product; two products may share the same bytes. Its label is the product's unless given."""

    __tablename__ = "product_images"
    __table_args__ = (
        CheckConstraint("role IN ('catalogue', 'example')", name="product_images_role"),
        Index("product_images_by_product", "product_id"),
        Index("product_images_by_content", "sha256"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    sha256: Mapped[str] = mapped_column(ForeignKey("media_objects.sha256"))
    role: Mapped[str] = mapped_column(String(20))
    label: Mapped[str | None] = mapped_column(String(200))
    change_seq: Mapped[int] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    deleted_at: Mapped[datetime | None] = mapped_column(_Timestamp)


class MediaObject(Table):
    """The bytes of a picture, stored once whoever shows it."""

    __tablename__ = "media_objects"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    extension: Mapped[str] = mapped_column(String(10))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(_Timestamp)


class StoredEmbedding(Table):
    """The embedding of some bytes in one embedding space: little-endian float32."""

    __tablename__ = "embeddings"

    space_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    embedding: Mapped[bytes] = mapped_column(LargeBinary)


class Release(Table):
    """A published release; its directory holds everything else."""

    __tablename__ = "releases"

    id: Mapped[str] = mapped_column(String(60), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    space_id: Mapped[str] = mapped_column(String(40))
    index_id: Mapped[str] = mapped_column(String(40))
    watermark: Mapped[int] = mapped_column(BigInteger)
    num_products: Mapped[int]
    num_images: Mapped[int]


class Activation(Table):
    """The one row (slot 1) that says which release is served; `version` counts its changes."""

    __tablename__ = "activation"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    previous_release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    activated_at: Mapped[datetime | None] = mapped_column(_Timestamp)


class ChangeCounter(Table):
    """The one row (slot 1) that change numbers are taken from."""

    __tablename__ = "change_counter"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)
