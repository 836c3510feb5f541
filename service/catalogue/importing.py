"""Import rows into the catalogue: resumable, idempotent, and not stopped by a bad row.

Rows are processed in chunks. Each chunk stores its images first and then commits its rows in one transaction, so an
interrupted import leaves complete rows, and at worst stored images without a row, which the next import uses.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.orm import Session

from embedding.decoding import DecodingLimits
from service.access.scopes import COMMAND_LINE
from service.catalogue.changes import lock_changes, number_changes, relabel
from service.catalogue.images import CHUNK_ROWS, ImageIntake, ReceivedImage, image_id_of, new_media_of, rows_by_id
from service.catalogue.records import chunks
from service.catalogue.reports import ImportReport, OnProgress, write_report
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
) -> ImportReport:
    """Add or update the products and images of a source; products and images that it does not name are unchanged.

    `actor` is recorded with each changed label. With `dry_run` everything is read and checked, and nothing is written.
    """
    intake = ImageIntake(database, media_store, limits or DecodingLimits())
    run = _ImportRun(database, intake, ImportReport(source.layout, dry_run), actor, source.folder)
    start = time.perf_counter()
    run.report.understood = source.understood
    run.report.notes.extend(source.notes)
    run.report.left_out.extend(source.left_out)
    num_done = 0
    with ThreadPoolExecutor(2, thread_name_prefix="import") as pool:
        for rows in chunks(source.rows, CHUNK_ROWS):
            run.import_chunk(rows, pool)
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, source.num_rows)
    run.report.seconds = time.perf_counter() - start
    return run.report


class _ImportRun:
    """State of one import: its report, and the values of earlier rows, to detect contradictions."""

    def __init__(
        self, database: Database, intake: ImageIntake, report: ImportReport, actor: str, folder: Path | None
    ) -> None:
        self.report = report
        self._database = database
        self._intake = intake
        self._actor = actor
        self._folder = folder
        self._first_rows: dict[str, SourceRow] = {}  # by image id
        self._titles: dict[str, SourceRow] = {}  # by product id: the first row with a title
        self._attributes: dict[str, SourceRow] = {}  # by product id: the first row with attributes
        self._counted: set[str] = set()  # ids of products and images that the report counts as added or updated

    def import_chunk(self, rows_and_errors: list[SourceRow | RowError], pool: ThreadPoolExecutor) -> None:
        """Import one chunk of rows."""
        self.report.errors.extend(row for row in rows_and_errors if isinstance(row, RowError))
        rows = [row for row in rows_and_errors if isinstance(row, SourceRow)]
        received_images = self._without_failures(rows, self._intake.receive(rows, pool))
        outcomes = [self._contradiction(received) or received for received in received_images]
        received_images = self._without_failures([received.row for received in received_images], outcomes)
        if self.report.dry_run:
            with self._database.reading() as session, session.no_autoflush:
                self._merge(session, received_images)
                session.expunge_all()
            return
        # All images of the chunk are stored before any row names them.
        self._intake.store(received_images, pool)
        with self._database.transaction() as session, session.no_autoflush:
            lock_changes(session)
            changed, label_changes = self._merge(session, received_images)
            number_changes(session, changed)
            session.flush()
            session.add_all(label_changes)

    def _without_failures(
        self, rows: list[SourceRow], outcomes: Sequence[ReceivedImage[SourceRow] | str]
    ) -> list[ReceivedImage[SourceRow]]:
        """Return the received images; add the failures, which are texts, to the report."""
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, str):
                self.report.errors.append(RowError(row.location, without_folder(outcome, self._folder)))
        return [outcome for outcome in outcomes if not isinstance(outcome, str)]

    def _contradiction(self, received: ReceivedImage[SourceRow]) -> str | None:
        """Describe how a row contradicts an earlier one, if it does: applying both would not be idempotent."""
        row = received.row
        first = self._first_rows.setdefault(_image_id(received), row)
        if first.role != row.role:
            return f"the same image has role {first.role} at {first.location} and {row.role} here"
        if None not in (first.label, row.label) and first.label != row.label:
            return f"the same image has label {first.label!r} at {first.location} and {row.label!r} here"
        if row.title is not None:
            first = self._titles.setdefault(row.product_id, row)
            if first.title != row.title:
                return f"the title of {row.product_id!r} is {first.title!r} at {first.location} and {row.title!r} here"
        if row.attributes is not None:
            first = self._attributes.setdefault(row.product_id, row)
            if first.attributes != row.attributes:
                return f"the attributes of {row.product_id!r} differ from those at {first.location}"
        return None

    def _merge(
        self, session: Session, received_images: list[ReceivedImage[SourceRow]]
    ) -> tuple[list[Product | ProductImage], list[LabelChange]]:
        """Apply the rows to the session; return the changed products and images, and the records of label changes."""
        products = rows_by_id(session, Product, {received.row.product_id for received in received_images})
        images = rows_by_id(session, ProductImage, {_image_id(received) for received in received_images})
        changed: dict[int, Product | ProductImage] = {}
        label_changes: list[LabelChange] = []
        for received in received_images:
            product = self._merge_product(products, received.row)
            image = self._merge_image(images, received, label_changes)
            changed.update((id(row), row) for row in (product, image) if row is not None)
            if product is None and image is None:
                self.report.num_unchanged += 1
        session.add_all([*new_media_of(session, received_images), *changed.values()])
        return list(changed.values()), label_changes

    def _merge_product(self, products: dict[str, Product], row: SourceRow) -> Product | None:
        """Create or update the product of a row; return it if it changed."""
        product = products.get(row.product_id)
        if product is None:
            product = Product(id=row.product_id, title=row.title or row.product_id, created_at=now())
            product.attributes = dict(row.attributes or {})
            products[row.product_id] = product
            self.report.num_products_added += self._is_uncounted(row.product_id)
            return product
        title = product.title if row.title is None else row.title
        attributes = product.attributes if row.attributes is None else dict(row.attributes)
        if (product.title, product.attributes, product.deleted_at) == (title, attributes, None):
            return None
        product.title, product.attributes, product.deleted_at = title, attributes, None
        self.report.num_products_updated += self._is_uncounted(row.product_id)
        return product

    def _merge_image(
        self, images: dict[str, ProductImage], received: ReceivedImage[SourceRow], label_changes: list[LabelChange]
    ) -> ProductImage | None:
        """Create or update the image of a row; return it if it changed."""
        row = received.row
        image_id = _image_id(received)
        image = images.get(image_id)
        if image is None:
            image = ProductImage(
                id=image_id,
                product_id=row.product_id,
                sha256=received.sha256,
                role=row.role,
                label=row.label,
                created_at=now(),
            )
            images[image.id] = image
            self.report.num_images_added += self._is_uncounted(image.id)
            return image
        label = image.label if row.label is None else row.label
        if (image.role, image.label, image.deleted_at) == (row.role, label, None):
            return None
        if image.label != label:
            # Only a change of an existing image is recorded: a new image has its label from the start.
            label_changes.append(relabel(image, label, actor=self._actor, source=f"import ({self.report.layout})"))
        image.role, image.deleted_at = row.role, None
        self.report.num_images_updated += self._is_uncounted(image.id)
        return image

    def _is_uncounted(self, key: str) -> bool:
        """Return whether a product or image is not yet counted, and note it: a dry run sees it again in each chunk."""
        is_uncounted = key not in self._counted
        self._counted.add(key)
        return is_uncounted


def _image_id(received: ReceivedImage[SourceRow]) -> str:
    return image_id_of(received.row.product_id, received.sha256)
