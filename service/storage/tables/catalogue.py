"""Products, images, labels, stored images and embeddings.

Two invariants that every reader relies on:

* `change_seq` is taken from the one row of `change_counter` inside the writing transaction. That row stays locked
  until the commit, so on every database the order of the numbers is the order in which changes become visible, and
  "all changes up to n" is a consistent view.
* No row of products and images is deleted; `deleted_at` marks a removed one, under a new `change_seq`.
"""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp

CATALOGUE = "catalogue"  # indexed and shown in results
EXAMPLE = "example"  # used for training and evaluation, never shown in results
ROLES = (CATALOGUE, EXAMPLE)


class Product(Table):
    """A product of the shop. Its label is its id unless one is given."""

    __tablename__ = "products"
    __table_args__ = (Index("products_by_label", "label"), Index("products_by_deletion", "deleted_at"))

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    title: Mapped[str] = mapped_column(String(1000))
    attributes: Mapped[dict[str, object]] = mapped_column(JSON)
    label: Mapped[str | None] = mapped_column(String(200))
    change_seq: Mapped[int] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    deleted_at: Mapped[datetime | None] = mapped_column(Timestamp)


class ProductImage(Table):
    """An image of a product; two products may share the same bytes. Its label is the product's unless given."""

    __tablename__ = "product_images"
    __table_args__ = (
        CheckConstraint("role IN ('catalogue', 'example')", name="product_images_role"),
        Index("product_images_by_product", "product_id"),
        Index("product_images_by_content", "sha256"),
        Index("product_images_by_label", "label", "product_id"),
        Index("product_images_by_role", "role", "deleted_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    sha256: Mapped[str] = mapped_column(ForeignKey("media_objects.sha256"))
    role: Mapped[str] = mapped_column(String(20))
    label: Mapped[str | None] = mapped_column(String(200))
    change_seq: Mapped[int] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    deleted_at: Mapped[datetime | None] = mapped_column(Timestamp)
    # The last change of the label: who, when, and on what basis; None: the label came with an import.
    labelled_by: Mapped[str | None] = mapped_column(String(200))
    labelled_at: Mapped[datetime | None] = mapped_column(Timestamp)
    label_source: Mapped[str | None] = mapped_column(String(200))


class LabelChange(Table):
    """One change of an image's label, never deleted: labels determine what a model learns."""

    __tablename__ = "label_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("product_images.id"), index=True)
    old_label: Mapped[str | None] = mapped_column(String(200))  # None: the label of the product, or a new image
    new_label: Mapped[str | None] = mapped_column(String(200))  # None: the label of the product
    changed_by: Mapped[str] = mapped_column(String(200))
    changed_at: Mapped[datetime] = mapped_column(Timestamp)
    source: Mapped[str] = mapped_column(String(200))


class MediaObject(Table):
    """Stored bytes of an image, shared by all products that show it."""

    __tablename__ = "media_objects"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    extension: Mapped[str] = mapped_column(String(10))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Timestamp)


class ChangeCounter(Table):
    """The one row (slot 1) that change numbers are taken from."""

    __tablename__ = "change_counter"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)
