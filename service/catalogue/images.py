"""New images, from an import or with labels: read, checked, stored, and given ids."""

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from embedding.decoding import DecodingLimits, decode_with_format
from embedding.errors import InvalidImage
from service.catalogue.records import KEYS_PER_QUERY, chunks, media_names_of
from service.storage.database import Database, insert_missing, now
from service.storage.media import MediaName, MediaStore
from service.storage.tables.catalogue import MediaObject, Product, ProductImage

# Rows that are processed together, and written in one transaction; fewer if their images have many bytes.
CHUNK_ROWS = 1_000
_CHUNK_BYTES = 64 * 2**20
# Images that a thread takes at once: handing over single small ones would cost more than reading them.
_SLICE_ROWS = 32


class WithImage(Protocol):
    """A row with a new image."""

    @property
    def image(self) -> Path | bytes:
        """The image's file, or its bytes."""


R = TypeVar("R", bound=WithImage)
T = TypeVar("T")
U = TypeVar("U")
Row = TypeVar("Row", Product, ProductImage)


@dataclass(slots=True)
class ReceivedImage(Generic[R]):
    """The image of a row after reading; decoded once as a check, unless its bytes are stored already."""

    row: R
    image_bytes: bytes
    sha256: str
    extension: str = ""
    new_media: dict[str, object] | None = None  # the row to insert; None if the bytes were stored before


class ImageIntake:
    """Reads, checks and stores new images; the rows that name them are written afterwards."""

    def __init__(self, database: Database, media_store: MediaStore, limits: DecodingLimits) -> None:
        self._database = database
        self._media_store = media_store
        self._limits = limits

    def receive(self, rows: Sequence[R], pool: ThreadPoolExecutor) -> list[ReceivedImage[R] | str]:
        """Read and check the images of rows; for an image that cannot be used, return the reason as text."""
        received_images = _map(pool, self._read, rows)
        known = self._known_extensions(
            {received.sha256 for received in received_images if not isinstance(received, str)}
        )
        return _map(
            pool,
            lambda received: received if isinstance(received, str) else self._check(received, known),
            received_images,
        )

    def store(self, received_images: Sequence[ReceivedImage[R]]) -> None:
        """Write the images to the media store. Raises MediaError, StorageFull."""
        self._media_store.put_all(
            {MediaName(received.sha256, received.extension): received.image_bytes for received in received_images}
        )

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
            return {name.sha256: name.extension for name in media_names_of(session, list(digests)).values()}

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
        received.new_media = {
            "sha256": received.sha256,
            "extension": decoded.extension,
            "num_bytes": len(received.image_bytes),
            "width": width,
            "height": height,
            "created_at": now(),
        }
        return received


def chunks_of_rows(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split rows into lists of at most `size` whose images have at most 64 MiB together, unless one has more."""
    chunk: list[T] = []
    num_bytes = 0
    for row in rows:
        row_bytes = _num_bytes(row)
        if chunk and (len(chunk) >= size or num_bytes + row_bytes > _CHUNK_BYTES):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(row)
        num_bytes += row_bytes
    if chunk:
        yield chunk


def _num_bytes(row: object) -> int:
    """Return the size of a row's image; 0 if it has none or cannot be read, which is reported later."""
    image = getattr(row, "image", None)
    if isinstance(image, bytes):
        return len(image)
    try:
        return image.stat().st_size if isinstance(image, Path) else 0
    except (OSError, ValueError):
        return 0


def _map(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Apply a function to items in the threads of a pool, some at a time; return the results in order."""
    slices = pool.map(lambda part: [function(item) for item in part], chunks(items, _SLICE_ROWS))
    return [result for part in slices for result in part]


def image_id_of(product_id: str, sha256: str) -> str:
    """Return the id of an image, derived from its product and its bytes so that repeated imports are idempotent."""
    return hashlib.sha256(f"{product_id}\0{sha256}".encode()).hexdigest()[:20]


def insert_media(session: Session, received_images: Sequence[ReceivedImage[R]]) -> None:
    """Insert the media rows of new images, unless another import has done so since the images were checked."""
    rows = {received.sha256: received.new_media for received in received_images if received.new_media is not None}
    insert_missing(session, MediaObject, list(rows.values()))


def rows_by_id(session: Session, table: type[Row], ids: set[str]) -> dict[str, Row]:
    """Return the rows with these ids, including deleted ones."""
    found: dict[str, Row] = {}
    for part in chunks(ids, KEYS_PER_QUERY):
        found.update((row.id, row) for row in session.scalars(select(table).where(table.id.in_(part))))
    return found
