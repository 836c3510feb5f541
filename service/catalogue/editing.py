"""Changes of the catalogue by HTTP and the command line, apart from imports."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalogue.errors import ProductNotFound
from service.storage.database import Database, next_change_seqs, now
from service.storage.tables.catalogue import Product, ProductImage
from training.datasets.identifiers import lookup_forms


def delete_products(database: Database, product_ids: Sequence[str]) -> int:
    """Mark products and their images as deleted in one transaction; return the number of images.

    Raises ProductNotFound, and deletes nothing, if one of the products does not exist.
    """
    with database.transaction() as session:
        return remove_products(session, product_ids)


def remove_products(session: Session, product_ids: Sequence[str]) -> int:
    """Mark products and their images as deleted; return the number of images.

    Raises ProductNotFound, and changes nothing, if one of the products does not exist.
    """
    products = []
    for product_id in dict.fromkeys(product_ids):
        # PostgreSQL rejects a NUL in a parameter; text that is no identifier has no forms.
        found = [session.get(Product, form) for form in lookup_forms(product_id)]
        present = [product for product in found if product is not None and product.deleted_at is None]
        if not present:
            raise ProductNotFound(f"the catalogue has no product {product_id!r:.80}")
        if present[0] not in products:
            products.append(present[0])
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
