"""Whether an image may be shown to anybody: images of role `catalogue`, never examples, which may be customers'."""

from datetime import timedelta

from sqlalchemy import select

from service.storage.database import Database, now
from service.storage.media import MediaName
from service.storage.tables.catalogue import CATALOGUE, MediaObject, ProductImage

# Results that clients hold, and servers that have not switched releases yet, name images of products that were removed.
REMOVED_FOR = timedelta(days=1)


def is_catalogue_image(database: Database, name: MediaName) -> bool:
    """Return whether a product of the catalogue has the image, or had it until less than a day ago."""
    earliest = now() - REMOVED_FOR
    found = (
        select(ProductImage.id)
        .join(MediaObject, MediaObject.sha256 == ProductImage.sha256)
        .where(
            ProductImage.sha256 == name.sha256,
            MediaObject.extension == name.extension,
            ProductImage.role == CATALOGUE,
            ProductImage.deleted_at.is_(None) | (ProductImage.deleted_at > earliest),
        )
        .limit(1)
    )
    with database.reading() as session:
        return session.scalar(found) is not None
