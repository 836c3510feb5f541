"""Products and images in the database: counting, removing, and reading them for indexes and training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.storage.database import current_watermark, in_utc
from service.storage.media import MediaName
from service.storage.tables.catalogue import CATALOGUE, MediaObject, Product, ProductImage

T = TypeVar("T")

# Keys in one IN clause: databases limit the number of parameters of a statement.
KEYS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class CatalogueImage:
    """An image to index, with the fields of its product that results contain."""

    image_id: str
    product_id: str
    title: str
    attributes: Mapping[str, object]
    media_name: MediaName


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image for training or evaluation, with its effective label."""

    image_id: str
    product_id: str
    label: str  # of the image; else of its product; else the product's id
    role: str
    media_name: MediaName
    labelled_at: datetime  # or when it was imported, if its label was never changed


@dataclass(frozen=True, slots=True)
class CatalogueContents:
    """All images of role `catalogue` as of the change number `watermark`, ordered by image id."""

    watermark: int
    images: list[CatalogueImage]


def read_catalogue(session: Session) -> CatalogueContents:
    """Return the images to index."""
    rows = session.execute(
        select(
            ProductImage.id, Product.id, Product.title, Product.attributes, MediaObject.sha256, MediaObject.extension
        )
        .join(Product, Product.id == ProductImage.product_id)
        .join(MediaObject, MediaObject.sha256 == ProductImage.sha256)
        .where(ProductImage.role == CATALOGUE, ProductImage.deleted_at.is_(None), Product.deleted_at.is_(None))
        .order_by(ProductImage.id)
    )
    images = [
        CatalogueImage(image_id, product_id, title, attributes, MediaName(sha256, extension))
        for image_id, product_id, title, attributes, sha256, extension in rows
    ]
    return CatalogueContents(current_watermark(session), images)


def labelled_images(session: Session) -> list[LabelledImage]:
    """Return all images with their effective labels, ordered by image id."""
    rows = session.execute(
        select(
            ProductImage.id,
            Product.id,
            func.coalesce(ProductImage.label, Product.label, Product.id),
            ProductImage.role,
            MediaObject.sha256,
            MediaObject.extension,
            func.coalesce(ProductImage.labelled_at, ProductImage.created_at, type_=ProductImage.created_at.type),
        )
        .join(Product, Product.id == ProductImage.product_id)
        .join(MediaObject, MediaObject.sha256 == ProductImage.sha256)
        .where(ProductImage.deleted_at.is_(None), Product.deleted_at.is_(None))
        .order_by(ProductImage.id)
    )
    return [
        # Stripped as `akin train` strips the labels of a file.
        LabelledImage(
            image_id, product_id, label.strip() or product_id, role, MediaName(sha256, extension), in_utc(moment)
        )
        for image_id, product_id, label, role, sha256, extension, moment in rows
    ]


def num_changes_after(session: Session, watermark: int) -> int:
    """Count products and catalogue images changed after `watermark`, which a release with that watermark lacks."""
    products = select(func.count()).select_from(Product).where(Product.change_seq > watermark)
    images = (
        select(func.count())
        .select_from(ProductImage)
        .where(ProductImage.change_seq > watermark, ProductImage.role == CATALOGUE)
    )
    return (session.scalar(products) or 0) + (session.scalar(images) or 0)


def media_names_of(session: Session, digests: Sequence[str]) -> dict[str, MediaName]:
    """Return the names of stored images by digest; unknown digests are absent."""
    found: dict[str, MediaName] = {}
    for part in chunks(list(dict.fromkeys(digests)), KEYS_PER_QUERY):
        query = select(MediaObject.sha256, MediaObject.extension).where(MediaObject.sha256.in_(part))
        found.update((sha256, MediaName(sha256, extension)) for sha256, extension in session.execute(query))
    return found


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split items into lists of at most `size` (itertools.batched requires Python 3.12)."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
