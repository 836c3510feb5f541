"""Products and images in the database: counting, removing, and reading them for indexes and training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.catalogue.errors import ProductNotFound
from service.storage.database import Database, current_watermark, in_utc, next_change_seqs, now
from service.storage.media import MediaName
from service.storage.tables.catalogue import CATALOGUE, ROLES, MediaObject, Product, ProductImage

T = TypeVar("T")

# Keys in one IN clause: databases limit the number of parameters of a statement.
KEYS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class CatalogueCounts:
    """Numbers of products and images that are not deleted."""

    num_products: int
    num_images: dict[str, int]  # by role
    watermark: int  # the number of the last change


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


def catalogue_counts(database: Database) -> CatalogueCounts:
    """Count products and images that are not deleted."""
    with database.reading() as session:
        return count_catalogue(session)


def delete_products(database: Database, product_ids: Sequence[str]) -> int:
    """Mark products and their images as deleted in one transaction; return the number of images.

    Raises ProductNotFound, and deletes nothing, if one of the products does not exist.
    """
    for product_id in product_ids:
        # No id has unprintable characters, and PostgreSQL rejects a NUL in a parameter.
        if not product_id.isprintable():
            raise ProductNotFound(f"the catalogue has no product {product_id!r:.80}")
    with database.transaction() as session:
        return remove_products(session, product_ids)


def is_image_stored(database: Database, name: MediaName) -> bool:
    """Return whether an image is stored under this name, whatever its role."""
    with database.reading() as session:
        return media_names_of(session, [name.sha256]).get(name.sha256) == name


def count_catalogue(session: Session) -> CatalogueCounts:
    """Count products and images that are not deleted, as this session sees them."""
    num_products = session.scalar(select(func.count()).select_from(Product).where(Product.deleted_at.is_(None))) or 0
    by_role = session.execute(
        select(ProductImage.role, func.count()).where(ProductImage.deleted_at.is_(None)).group_by(ProductImage.role)
    )
    counts = {row[0]: row[1] for row in by_role}
    return CatalogueCounts(num_products, {role: counts.get(role, 0) for role in ROLES}, current_watermark(session))


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
    """Count the products and catalogue images that changed after a watermark, and so are not in a release of then."""
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


def remove_products(session: Session, product_ids: Sequence[str]) -> int:
    """Mark products and their images as deleted; return the number of images.

    Raises ProductNotFound, and changes nothing, if one of the products does not exist.
    """
    products = []
    for product_id in dict.fromkeys(product_ids):
        product = session.get(Product, product_id)
        if product is None or product.deleted_at is not None:
            raise ProductNotFound(f"the catalogue has no product {product_id!r}")
        products.append(product)
    ids = [product.id for product in products]
    images = session.scalars(
        select(ProductImage).where(ProductImage.product_id.in_(ids), ProductImage.deleted_at.is_(None))
    ).all()
    seqs = iter(next_change_seqs(session, len(products) + len(images)))
    moment = now()
    changed: list[Product | ProductImage] = [*products, *images]
    for row in changed:
        row.deleted_at = moment
        row.change_seq = next(seqs)
    return len(images)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split items into lists of at most `size` (itertools.batched requires Python 3.12)."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
