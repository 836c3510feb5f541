"""Import rows into the catalogue: resumable, idempotent, and not stopped by a bad row.

Rows are processed in chunks. Each chunk stores its images first and then commits its rows in one transaction, so an
interrupted import leaves complete rows, and at worst stored images without a row, which the next import uses.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.orm import Session

from embedding.decoding import DecodingLimits
from service.access.scopes import COMMAND_LINE
from service.catalogue.changes import lock_changes, number_changes, relabel
from service.catalogue.first_values import FirstValues
from service.catalogue.images import (
    CHUNK_ROWS,
    ImageIntake,
    ReceivedImage,
    chunks_of_rows,
    image_id_of,
    insert_media,
    rows_by_id,
)
from service.catalogue.reports import ImportReport, OnErrors, OnProgress, add_errors, write_report
from service.catalogue.sources import ImportSource, RowError, SourceRow, read_import_source, without_folder
from service.catalogue.unpacking import unpacked
from service.installation.installation import Installation
from service.installation.settings import Settings
from service.storage.database import Database, now
from service.storage.media import MediaStore
from service.storage.tables.catalogue import LabelChange, Product, ProductImage
from training.datasets.folders import Layout


def import_path(
    installation: Installation,
    path: Path,
    *,
    layout: Layout = "auto",
    dry_run: bool = False,
    actor: str = COMMAND_LINE,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Import a folder, a table or a zip archive; write all errors to a JSON file if there are any.

    Raises InvalidArchive, InvalidImportSource, MediaError, StorageFull.
    """
    with _import_source(path, installation.settings, layout) as source:
        report = import_catalogue(
            source,
            installation.database,
            installation.media_store,
            limits=installation.limits,
            dry_run=dry_run,
            actor=actor,
            on_progress=on_progress,
        )
    if (report.errors or report.left_out) and not dry_run:
        report.file = write_report(report, installation.settings.reports_dir, "import")
    return report


@contextmanager
def _import_source(path: Path, settings: Settings, layout: Layout) -> Iterator[ImportSource]:
    """Read a source; an archive stays unpacked for the duration of the block."""
    if path.is_file() and path.suffix.lower() == ".zip":
        with unpacked(path, settings) as folder:
            yield read_import_source(folder, is_trusted=False, layout=layout)
    else:
        yield read_import_source(path, layout=layout)


def import_catalogue(
    source: ImportSource,
    database: Database,
    media_store: MediaStore,
    *,
    limits: DecodingLimits | None = None,
    dry_run: bool = False,
    actor: str = COMMAND_LINE,
    on_progress: OnProgress | None = None,
    on_error: OnErrors | None = None,
) -> ImportReport:
    """Add or update the products and images of a source; products and images that it does not name are unchanged.

    `actor` is recorded with each changed label. With `dry_run` everything is read and checked, and nothing is written.
    The report keeps the first errors; `on_error` receives all of them, chunk by chunk.
    """
    intake = ImageIntake(database, media_store, limits or DecodingLimits())
    report = ImportReport(source.layout, dry_run, understood=source.understood)
    start = time.perf_counter()
    report.notes.extend(source.notes)
    report.left_out.extend(source.left_out)
    num_done = 0
    with FirstValues() as first_values, ThreadPoolExecutor(2, thread_name_prefix="import") as pool:
        run = _ImportRun(database, intake, report, actor, source.folder, first_values, on_error)
        for rows in chunks_of_rows(source.rows, CHUNK_ROWS):
            run.import_chunk(rows, pool)
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, source.num_rows)
    report.seconds = time.perf_counter() - start
    return report


class _ImportRun:
    """State of one import: its report, and the values of earlier rows, to detect contradictions."""

    def __init__(
        self,
        database: Database,
        intake: ImageIntake,
        report: ImportReport,
        actor: str,
        folder: Path | None,
        first_values: FirstValues,
        on_error: OnErrors | None,
    ) -> None:
        self.report = report
        self._database = database
        self._intake = intake
        self._actor = actor
        self._folder = folder
        self._first_values = first_values
        self._on_error = on_error

    def import_chunk(self, rows_and_errors: list[SourceRow | RowError], pool: ThreadPoolExecutor) -> None:
        """Import one chunk of rows."""
        self._fail([row for row in rows_and_errors if isinstance(row, RowError)])
        rows = [row for row in rows_and_errors if isinstance(row, SourceRow)]
        received_images = self._without_failures(rows, self._intake.receive(rows, pool))
        outcomes = [self._contradiction(received) or received for received in received_images]
        received_images = self._without_failures([received.row for received in received_images], outcomes)
        if not self.report.dry_run:
            # All images of the chunk are stored before any row names them.
            self._intake.store(received_images)
        is_known = all(received.new_media is None for received in received_images)
        if is_known or self.report.dry_run:
            # First without the lock, which most rows of a repeated import do not need.
            with self._database.reading() as session, session.no_autoflush:
                merge = self._merged(session, received_images)
                session.expunge_all()
            if self.report.dry_run or not merge.changed:
                self._count(merge)
                return
        with self._database.transaction() as session, session.no_autoflush:
            lock_changes(session)
            merge = self._merged(session, received_images)
            insert_media(session, received_images)
            changed = list(merge.changed.values())
            session.add_all(changed)
            number_changes(session, changed)
            session.flush()
            session.add_all(merge.label_changes)
        self._count(merge)

    def _merged(self, session: Session, received_images: Sequence[ReceivedImage[SourceRow]]) -> "_Merge":
        merge = _Merge(session, received_images, self._actor, f"import ({self.report.layout})")
        for received in received_images:
            merge.apply(received)
        return merge

    def _count(self, merge: "_Merge") -> None:
        """Add a merge to the report; a dry run sees the same new product or image again in each chunk."""
        self.report.num_unchanged += merge.num_unchanged
        for name, key in merge.counted:
            if self._first_values.is_new("counted", key):
                setattr(self.report, name, getattr(self.report, name) + 1)

    def _without_failures(
        self, rows: list[SourceRow], outcomes: Sequence[ReceivedImage[SourceRow] | str]
    ) -> list[ReceivedImage[SourceRow]]:
        """Return the received images; add the failures, which are texts, to the report."""
        self._fail(
            [
                RowError(row.location, without_folder(outcome, self._folder))
                for row, outcome in zip(rows, outcomes, strict=True)
                if isinstance(outcome, str)
            ]
        )
        return [outcome for outcome in outcomes if not isinstance(outcome, str)]

    def _fail(self, errors: list[RowError]) -> None:
        add_errors(self.report, errors, self._on_error)

    def _contradiction(self, received: ReceivedImage[SourceRow]) -> str | None:
        """Describe how a row contradicts an earlier one, if it does: applying both would not be idempotent."""
        row, image_id = received.row, _image_id(received)
        location, role = self._first_values.first("role", image_id, row.location, row.role)
        if role != row.role:
            return f"the same image has role {role} at {location} and {row.role} here"
        if row.label is not None:
            location, label = self._first_values.first("label", image_id, row.location, row.label)
            if label != row.label:
                return f"the same image has label {label!r} at {location} and {row.label!r} here"
        if row.title is not None:
            location, title = self._first_values.first("title", row.product_id, row.location, row.title)
            if title != row.title:
                return f"the title of {row.product_id!r} is {title!r} at {location} and {row.title!r} here"
        if row.attributes is not None:
            digest = hashlib.sha256(json.dumps(row.attributes, sort_keys=True).encode()).hexdigest()
            location, first_digest = self._first_values.first("attributes", row.product_id, row.location, digest)
            if first_digest != digest:
                return f"the attributes of {row.product_id!r} differ from those at {location}"
        return None


class _Merge:
    """Applies the rows of one chunk to the products and images of a session."""

    def __init__(
        self, session: Session, received_images: Sequence[ReceivedImage[SourceRow]], actor: str, source: str
    ) -> None:
        self.changed: dict[int, Product | ProductImage] = {}
        self.label_changes: list[LabelChange] = []
        self.counted: list[tuple[str, str]] = []  # the field of the report, and the product or image to count in it
        self.num_unchanged = 0
        self._actor = actor
        self._source = source
        self._products = rows_by_id(session, Product, {received.row.product_id for received in received_images})
        self._images = rows_by_id(session, ProductImage, {_image_id(received) for received in received_images})

    def apply(self, received: ReceivedImage[SourceRow]) -> None:
        """Apply one row."""
        rows = (self._apply_product(received.row), self._apply_image(received))
        self.changed.update((id(row), row) for row in rows if row is not None)
        self.num_unchanged += rows == (None, None)

    def _apply_product(self, row: SourceRow) -> Product | None:
        """Create or update the product of a row; return it if it changed."""
        product = self._products.get(row.product_id)
        if product is None:
            product = Product(id=row.product_id, title=row.title or row.product_id, created_at=now())
            product.attributes = dict(row.attributes or {})
            self._products[row.product_id] = product
            self.counted.append(("num_products_added", row.product_id))
            return product
        title = product.title if row.title is None else row.title
        attributes = product.attributes if row.attributes is None else dict(row.attributes)
        if (product.title, product.attributes, product.deleted_at) == (title, attributes, None):
            return None
        product.title, product.attributes, product.deleted_at = title, attributes, None
        self.counted.append(("num_products_updated", row.product_id))
        return product

    def _apply_image(self, received: ReceivedImage[SourceRow]) -> ProductImage | None:
        """Create or update the image of a row; return it if it changed."""
        row = received.row
        image_id = _image_id(received)
        image = self._images.get(image_id)
        if image is None:
            image = ProductImage(
                id=image_id,
                product_id=row.product_id,
                sha256=received.sha256,
                role=row.role,
                label=row.label,
                created_at=now(),
            )
            self._images[image.id] = image
            self.counted.append(("num_images_added", image.id))
            return image
        label = image.label if row.label is None else row.label
        if (image.role, image.label, image.deleted_at) == (row.role, label, None):
            return None
        if image.label != label:
            # Only a change of an existing image is recorded: a new image has its label from the start.
            self.label_changes.append(relabel(image, label, actor=self._actor, source=self._source))
        image.role, image.deleted_at = row.role, None
        self.counted.append(("num_images_updated", image.id))
        return image


def _image_id(received: ReceivedImage[SourceRow]) -> str:
    return image_id_of(received.row.product_id, received.sha256)
