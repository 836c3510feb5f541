"""Questions about the catalogue that HTTP and the command line ask; each opens its own short session."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.catalogue.records import media_names_of
from service.storage.database import Database, current_watermark
from service.storage.media import MediaName
from service.storage.tables.catalogue import ROLES, Product, ProductImage


@dataclass(frozen=True, slots=True)
class CatalogueCounts:
    """Numbers of products and images that are not deleted."""

    num_products: int
    num_images: dict[str, int]  # by role
    watermark: int  # the number of the last change


def catalogue_counts(database: Database) -> CatalogueCounts:
    """Count products and images that are not deleted."""
    with database.reading() as session:
        return count_catalogue(session)


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
