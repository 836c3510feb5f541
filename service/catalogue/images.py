"""New images, from an import or with labels: read, checked, stored, and given ids."""

import hashlib
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from embedding.decoding import DecodingLimits, decode_with_format
from embedding.errors import InvalidImage
from service.storage.database import Database, now
from service.storage.media import MediaName, MediaStore
from service.storage.tables.catalogue import MediaObject, Product, ProductImage

# Rows that are processed together, and written in one transaction.
CHUNK_ROWS = 32


class WithImage(Protocol):
    """A row with a new image."""

    @property
    def image(self) -> Path | bytes:
        """The image's file, or its bytes."""


R = TypeVar("R", bound=WithImage)
Row = TypeVar("Row", Product, ProductImage)


@dataclass(slots=True)
class ReceivedImage(Generic[R]):
    """The image of a row after reading; decoded once as a check, unless its bytes are stored already."""

    row: R
    image_bytes: bytes
    sha256: str
    extension: str = ""
    new_media: MediaObject | None = None  # the row to insert; None if the bytes were stored before


class ImageIntake:
    """Reads, checks and stores new images; the rows that name them are written afterwards."""

    def __init__(self, database: Database, media_store: MediaStore, limits: DecodingLimits) -> None:
        self._database = database
        self._media_store = media_store
        self._limits = limits

    def receive(self, rows: Sequence[R], pool: ThreadPoolExecutor) -> list[ReceivedImage[R] | str]:
        """Read and check the images of rows; for an image that cannot be used, return the reason as text."""
        received_images = list(pool.map(self._read, rows))
        known = self._known_extensions(
            {received.sha256 for received in received_images if not isinstance(received, str)}
        )
        return list(
            pool.map(
                lambda received: received if isinstance(received, str) else self._check(received, known),
                received_images,
            )
        )

    def store(self, received_images: Sequence[ReceivedImage[R]], pool: ThreadPoolExecutor) -> None:
        """Write the images to the media store. Raises MediaError, StorageFull."""
        list(pool.map(self._store, received_images))

    def _read(self, row: R) -> ReceivedImage[R] | str:
        most = self._limits.max_image_bytes
        image = row.image
        if isinstance(image, bytes):
            if len(image) > most:
                return f"the image has {len(image):,} bytes; at most {most:,} are allowed"
            return ReceivedImage(row, image, hashlib.sha256(image).hexdigest())
        try:
            status = image.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{image} is not a file"
            if (num_bytes := status.st_size) > most:
                return f"the file {image} has {num_bytes:,} bytes; at most {most:,} are allowed"
            image_bytes = image.read_bytes()
        except FileNotFoundError:
            return f"the file {image} does not exist"
        except (OSError, ValueError) as error:
            return f"the file {image} cannot be read: {error}"
        return ReceivedImage(row, image_bytes, hashlib.sha256(image_bytes).hexdigest())

    def _known_extensions(self, digests: set[str]) -> dict[str, str]:
        with self._database.reading() as session:
            known = select(MediaObject.sha256, MediaObject.extension).where(MediaObject.sha256.in_(digests))
            return {row[0]: row[1] for row in session.execute(known)}

    def _check(self, received: ReceivedImage[R], known_extensions: Mapping[str, str]) -> ReceivedImage[R] | str:
        if extension := known_extensions.get(received.sha256):
            received.extension = extension
            return received
        try:
            decoded = decode_with_format(received.image_bytes, self._limits)
        except InvalidImage as error:
            image = received.row.image
            return f"{image.name}: {error}" if isinstance(image, Path) else str(error)
        width, height = decoded.image.size
        received.extension = decoded.extension
        received.new_media = MediaObject(
            sha256=received.sha256,
            extension=decoded.extension,
            num_bytes=len(received.image_bytes),
            width=width,
            height=height,
            created_at=now(),
        )
        return received

    def _store(self, received: ReceivedImage[R]) -> None:
        self._media_store.put(MediaName(received.sha256, received.extension), received.image_bytes)


def image_id_of(product_id: str, sha256: str) -> str:
    """Return the id of an image, derived from its product and its bytes so that repeated imports are idempotent."""
    return hashlib.sha256(f"{product_id}\0{sha256}".encode()).hexdigest()[:20]


def new_media_of(session: Session, received_images: Sequence[ReceivedImage[R]]) -> list[MediaObject]:
    """Return the media rows of images that still have to be inserted."""
    new: dict[str, MediaObject] = {}
    for received in received_images:
        # Another import may have inserted the row since the images were checked.
        if received.new_media and session.get(MediaObject, received.sha256) is None:
            new.setdefault(received.sha256, received.new_media)
    return list(new.values())


def rows_by_id(session: Session, table: type[Row], ids: set[str]) -> dict[str, Row]:
    """Return the rows with these ids, including deleted ones."""
    return {row.id: row for row in session.scalars(select(table).where(table.id.in_(ids)))}
