"""Import rows into the catalogue: resumable, idempotent, and not stopped by a bad row.

Rows are taken in chunks; each chunk stores its pictures first and then commits its rows in one transaction, so that
a run that was cut off leaves whole rows and at worst some pictures that no row names yet. Run again, it finds them.
"""

import hashlib
import json
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from embedding.decoding import DecodingLimits, decode_with_format
from embedding.errors import InvalidImage
from service.catalogue import chunks
from service.database import Database, next_change_seqs, now
from service.import_sources import ImportSource, RowError, SourceRow
from service.media import MediaName, MediaStore
from service.tables import MediaObject, Product, ProductImage

_CHUNK_ROWS = 32
Row = TypeVar("Row", Product, ProductImage)
OnProgress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do (`dry_run`). Each row is counted once: added, updated, unchanged or failed."""

    layout: str
    dry_run: bool
    num_products_added: int = 0
    num_products_updated: int = 0
    num_images_added: int = 0
    num_images_updated: int = 0
    num_unchanged: int = 0
    num_ignored: int = 0
    seconds: float = 0.0
    errors: list[RowError] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the report as it is written to a file."""
        return asdict(self)


@dataclass(slots=True)
class _Picture:
    """The picture of a row: read and, unless its bytes are known already, decoded once to see that it can be."""

    row: SourceRow
    image_bytes: bytes
    sha256: str
    extension: str = ""
    new_media: MediaObject | None = None

    @property
    def image_id(self) -> str:
        return image_id_of(self.row.product_id, self.sha256)


def image_id_of(product_id: str, sha256: str) -> str:
    """Return the id of a picture: equal for the same bytes of the same product, so that imports repeat safely."""
    return hashlib.sha256(f"{product_id}\0{sha256}".encode()).hexdigest()[:20]


def import_catalogue(
    source: ImportSource,
    database: Database,
    media_store: MediaStore,
    *,
    limits: DecodingLimits | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Bring the catalogue to what the rows of `source` say; what they do not mention stays as it is.

    With `dry_run` everything is read and checked, and nothing is written.
    """
    run = _ImportRun(database, media_store, limits or DecodingLimits(), ImportReport(source.layout, dry_run))
    start = time.perf_counter()
    run.report.errors.extend(source.errors)
    run.report.num_ignored = source.num_ignored
    num_done = 0
    with ThreadPoolExecutor(2, thread_name_prefix="import") as pool:
        for rows in chunks(source.rows, _CHUNK_ROWS):
            run.take(rows, pool)
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, len(source.rows))
    run.report.seconds = time.perf_counter() - start
    return run.report


def write_import_report(report: ImportReport, directory: Path) -> Path:
    """Write the report as JSON and return the file's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"import-{now():%Y%m%dT%H%M%S%f}.json"
    # Escaped, since a path in a message may be no text.
    path.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return path


class _ImportRun:
    """State of one import: the report, and what earlier rows of the same source said."""

    def __init__(
        self, database: Database, media_store: MediaStore, limits: DecodingLimits, report: ImportReport
    ) -> None:
        self.report = report
        self._database = database
        self._media_store = media_store
        self._limits = limits
        self._first_rows: dict[str, SourceRow] = {}  # by image id
        self._titles: dict[str, SourceRow] = {}  # by product id: the row that gave the title
        self._attributes: dict[str, SourceRow] = {}
        self._counted: set[str] = set()  # ids of products and pictures that the report has counted

    def take(self, rows: list[SourceRow], pool: ThreadPoolExecutor) -> None:
        """Import one chunk of rows."""
        pictures = self._without_failures(rows, list(pool.map(self._read, rows)))
        known = self._known_extensions({picture.sha256 for picture in pictures})
        outcomes = list(pool.map(lambda picture: self._check(picture, known), pictures))
        pictures = self._without_failures([picture.row for picture in pictures], outcomes)
        outcomes = [self._contradiction(picture) or picture for picture in pictures]
        pictures = self._without_failures([picture.row for picture in pictures], outcomes)
        if self.report.dry_run:
            with self._database.reading() as session, session.no_autoflush:
                self._merge(session, pictures)
                session.expunge_all()
            return
        # All pictures of the chunk are on disk before a row names them.
        list(pool.map(self._store, pictures))
        with self._database.transaction() as session, session.no_autoflush:
            changed = self._merge(session, pictures)
            seqs = next_change_seqs(session, len(changed)) if changed else ()
            for row, seq in zip(changed, seqs, strict=True):
                row.change_seq = seq

    def _without_failures(self, rows: list[SourceRow], outcomes: Sequence[_Picture | str]) -> list[_Picture]:
        """Move what failed (a text says why) to the report."""
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, str):
                self.report.errors.append(RowError(row.location, outcome))
        return [outcome for outcome in outcomes if isinstance(outcome, _Picture)]

    def _read(self, row: SourceRow) -> _Picture | str:
        most = self._limits.max_image_bytes
        try:
            status = row.image.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{row.image} is not a file"
            if (num_bytes := status.st_size) > most:
                return f"the file {row.image} has {num_bytes:,} bytes; at most {most:,} are allowed"
            image_bytes = row.image.read_bytes()
        except FileNotFoundError:
            return f"the file {row.image} does not exist"
        except (OSError, ValueError) as error:
            return f"the file {row.image} cannot be read: {error}"
        return _Picture(row, image_bytes, hashlib.sha256(image_bytes).hexdigest())

    def _known_extensions(self, digests: set[str]) -> dict[str, str]:
        with self._database.reading() as session:
            known = select(MediaObject.sha256, MediaObject.extension).where(MediaObject.sha256.in_(digests))
            return {row[0]: row[1] for row in session.execute(known)}

    def _check(self, picture: _Picture, known_extensions: Mapping[str, str]) -> _Picture | str:
        if extension := known_extensions.get(picture.sha256):
            picture.extension = extension
            return picture
        try:
            decoded = decode_with_format(picture.image_bytes, self._limits)
        except InvalidImage as error:
            return f"{picture.row.image.name}: {error}"
        width, height = decoded.image.size
        picture.extension = decoded.extension
        picture.new_media = MediaObject(
            sha256=picture.sha256,
            extension=decoded.extension,
            num_bytes=len(picture.image_bytes),
            width=width,
            height=height,
            created_at=now(),
        )
        return picture

    def _contradiction(self, picture: _Picture) -> str | None:
        """Say where a row says otherwise than an earlier one; following both would change the result each time."""
        row = picture.row
        first = self._first_rows.setdefault(picture.image_id, row)
        if first.role != row.role:
            return f"the same picture has role {first.role} at {first.location} and {row.role} here"
        if None not in (first.label, row.label) and first.label != row.label:
            return f"the same picture has label {first.label!r} at {first.location} and {row.label!r} here"
        if row.title is not None:
            first = self._titles.setdefault(row.product_id, row)
            if first.title != row.title:
                return f"the title of {row.product_id!r} is {first.title!r} at {first.location} and {row.title!r} here"
        if row.attributes is not None:
            first = self._attributes.setdefault(row.product_id, row)
            if first.attributes != row.attributes:
                return f"the attributes of {row.product_id!r} differ from those at {first.location}"
        return None

    def _store(self, picture: _Picture) -> None:
        self._media_store.put(MediaName(picture.sha256, picture.extension), picture.image_bytes)

    def _merge(self, session: Session, pictures: list[_Picture]) -> list[Product | ProductImage]:
        """Bring the tables to what the rows say, and return the products and images that changed."""
        products = _by_id(session, Product, {picture.row.product_id for picture in pictures})
        images = _by_id(session, ProductImage, {picture.image_id for picture in pictures})
        changed: dict[int, Product | ProductImage] = {}
        new_media: dict[str, MediaObject] = {}
        for picture in pictures:
            # Another import may have stored the same picture since this one looked.
            if picture.new_media and session.get(MediaObject, picture.sha256) is None:
                new_media.setdefault(picture.sha256, picture.new_media)
            product = self._merge_product(products, picture.row)
            image = self._merge_image(images, picture)
            changed.update((id(row), row) for row in (product, image) if row is not None)
            if product is None and image is None:
                self.report.num_unchanged += 1
        session.add_all([*new_media.values(), *changed.values()])
        return list(changed.values())

    def _merge_product(self, products: dict[str, Product], row: SourceRow) -> Product | None:
        """Return the product of a row when it has to be written."""
        product = products.get(row.product_id)
        if product is None:
            product = Product(id=row.product_id, title=row.title or row.product_id, created_at=now())
            product.attributes = dict(row.attributes or {})
            products[row.product_id] = product
            self.report.num_products_added += self._is_new(row.product_id)
            return product
        title = product.title if row.title is None else row.title
        attributes = product.attributes if row.attributes is None else dict(row.attributes)
        if (product.title, product.attributes, product.deleted_at) == (title, attributes, None):
            return None
        product.title, product.attributes, product.deleted_at = title, attributes, None
        self.report.num_products_updated += self._is_new(row.product_id)
        return product

    def _merge_image(self, images: dict[str, ProductImage], picture: _Picture) -> ProductImage | None:
        """Return the image of a row when it has to be written."""
        row = picture.row
        image = images.get(picture.image_id)
        if image is None:
            image = ProductImage(
                id=picture.image_id,
                product_id=row.product_id,
                sha256=picture.sha256,
                role=row.role,
                label=row.label,
                created_at=now(),
            )
            images[image.id] = image
            self.report.num_images_added += self._is_new(image.id)
            return image
        label = image.label if row.label is None else row.label
        if (image.role, image.label, image.deleted_at) == (row.role, label, None):
            return None
        image.role, image.label, image.deleted_at = row.role, label, None
        self.report.num_images_updated += self._is_new(image.id)
        return image

    def _is_new(self, key: str) -> bool:
        """Say once of each product and picture that it is new to the report: a dry run meets it again and again."""
        is_new = key not in self._counted
        self._counted.add(key)
        return is_new


def _by_id(session: Session, table: type[Row], ids: set[str]) -> dict[str, Row]:
    return {row.id: row for row in session.scalars(select(table).where(table.id.in_(ids)))}
