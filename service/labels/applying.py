"""Apply labels to images of the catalogue, and add new labelled images as examples: resumable and idempotent.

Rows are processed as in an import: in chunks, images first, each chunk in one transaction. A new image needs an
existing product and becomes an example, which is used for training and evaluation and never returned by a search.
Every change of a label is recorded.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.catalogue.changes import lock_changes, number_changes, relabel
from service.catalogue.images import CHUNK_ROWS, ImageIntake, ReceivedImage, image_id_of, new_media_of, rows_by_id
from service.catalogue.records import chunks
from service.catalogue.reports import OnProgress
from service.catalogue.sources import RowError, first_reasons, without_folder
from service.installation.installation import Installation
from service.labels.sources import LabelRow, LabelSource, NewExample, Relabel
from service.storage.database import now
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE, LabelChange, Product, ProductImage
from training.datasets.rows import LeftOut

# All errors are counted; only the first are kept.
_MAX_KEPT_ERRORS = 10_000
_NUM_SHOWN_PRODUCTS = 3

Outcome = Literal["added", "changed", "unchanged"]


@dataclass(slots=True)
class LabelReport:
    """What a source of labels changed, or would change (`dry_run`). Each row is counted once."""

    layout: str
    dry_run: bool
    num_added: int = 0
    num_changed: int = 0
    num_unchanged: int = 0
    num_failed: int = 0
    num_skipped: int = 0  # rows of a catalogue that are not examples
    seconds: float = 0.0
    understood: str = ""  # one line that says what the source was understood as
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)  # files that are not part of the source
    errors: list[RowError] = field(default_factory=list)  # the first of the rows that failed
    file: Path | None = None  # the JSON file of this report, if one was written

    @property
    def num_usable(self) -> int:
        """Number of rows that could be used, whether or not they changed anything."""
        return self.num_added + self.num_changed + self.num_unchanged

    def reasons(self) -> str:
        """Describe the first errors in one line."""
        return first_reasons(self.errors, self.num_failed)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        values = asdict(self)
        del values["file"]
        return {**values, "num_ignored": self.num_skipped + len(self.left_out)}


@dataclass(slots=True)
class _Item:
    """A row, with the received image if it is a new example."""

    row: LabelRow
    received: ReceivedImage[NewExample] | None


def apply_labels(
    installation: Installation,
    source: LabelSource,
    *,
    actor: str,
    source_name: str,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> LabelReport:
    """Set the labels of the rows and add new images as examples; a bad row does not stop the others.

    `actor` is recorded for rows that name nobody, and `source_name` with every change. The same source applied again
    changes nothing. With `dry_run` everything is checked and nothing is written.

    Raises MediaError, StorageFull.
    """
    report = LabelReport(source.layout, dry_run, num_skipped=source.num_skipped, understood=source.understood)
    report.notes.extend(source.notes)
    report.left_out.extend(source.left_out)
    run = _LabelRun(installation, report, actor, source_name, source.folder)
    start = time.perf_counter()
    num_done = 0
    with ThreadPoolExecutor(2, thread_name_prefix="labels") as pool:
        for rows in chunks(source.rows, CHUNK_ROWS):
            run.apply_chunk(rows, pool)
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, source.num_rows)
    report.seconds = time.perf_counter() - start
    return report


class _LabelRun:
    """State of one run: its report, and the labels of earlier rows, to detect contradictions."""

    def __init__(
        self, installation: Installation, report: LabelReport, actor: str, source_name: str, folder: Path | None
    ) -> None:
        self.report = report
        self._database = installation.database
        self._intake = ImageIntake(installation.database, installation.media_store, installation.limits)
        self._actor = actor
        self._source_name = source_name
        self._folder = folder
        self._first_labels: dict[str, tuple[str, str | None]] = {}  # by image id: location and label of its first row
        self._added: set[str] = set()  # a dry run sees the same new image again in each chunk

    def apply_chunk(self, rows: list[LabelRow | RowError], pool: ThreadPoolExecutor) -> None:
        """Apply one chunk of rows."""
        items = self._items(rows, pool)
        # First without the lock, to find the rows that can be used: only their images are stored.
        with self._database.reading() as session, session.no_autoflush:
            merged = _Merge(session, items, self._actor, self._source_name)
            items = self._usable(items, merged, is_final=self.report.dry_run)
            session.expunge_all()
        if self.report.dry_run or not items:
            return
        received_images = [item.received for item in items if item.received is not None]
        self._intake.store(received_images, pool)
        with self._database.transaction() as session, session.no_autoflush:
            lock_changes(session)
            merged = _Merge(session, items, self._actor, self._source_name)
            used = self._usable(items, merged, is_final=True)
            session.add_all(new_media_of(session, [item.received for item in used if item.received is not None]))
            merged.write()

    def _items(self, rows: list[LabelRow | RowError], pool: ThreadPoolExecutor) -> list[_Item]:
        """Read the images of the rows; add the failures to the report."""
        new = [row for row in rows if isinstance(row, NewExample)]
        received_images = {
            id(row): received for row, received in zip(new, self._intake.receive(new, pool), strict=True)
        }
        items: list[_Item] = []
        for row in rows:
            received = received_images.get(id(row))
            if isinstance(row, RowError):
                self._fail(row.location, row.message)
            elif isinstance(received, str):
                self._fail(row.location, received)
            else:
                items.append(_Item(row, received))
        return items

    def _usable(self, items: list[_Item], merged: "_Merge", *, is_final: bool) -> list[_Item]:
        """Apply the rows to the session; return those that can be used, and count them if this is the final pass."""
        usable: list[_Item] = []
        for item in items:
            try:
                outcome, image_id = merged.apply(item, self._first_labels)
            except ValueError as error:
                self._fail(item.row.location, str(error))
                continue
            usable.append(item)
            if is_final:
                self._count(outcome, image_id)
        return usable

    def _count(self, outcome: Outcome, image_id: str) -> None:
        if outcome == "added" and image_id not in self._added:
            self._added.add(image_id)
            self.report.num_added += 1
        elif outcome == "changed":
            self.report.num_changed += 1
        else:
            self.report.num_unchanged += 1

    def _fail(self, location: str, message: str) -> None:
        self.report.num_failed += 1
        if len(self.report.errors) < _MAX_KEPT_ERRORS:
            self.report.errors.append(RowError(location, without_folder(message, self._folder)))


class _Merge:
    """Applies the rows of one chunk to the tables, in one session."""

    def __init__(self, session: Session, items: list[_Item], actor: str, source_name: str) -> None:
        self._session = session
        self._actor = actor
        self._source_name = source_name
        self._changed: dict[str, ProductImage] = {}
        self._history: list[LabelChange] = []
        rows = [item.row for item in items]
        named = {row.product_id for row in rows if row.product_id is not None}
        labels = {row.label for row in rows if isinstance(row, NewExample) and row.product_id is None and row.label}
        self._products_of_labels = {label: _product_of_label(session, label) for label in labels}
        found = {product.id for product in self._products_of_labels.values() if product is not None}
        self._images = self._load_images(items)
        named |= {image.product_id for image in self._images.values()}
        self._products = rows_by_id(session, Product, named | found)
        self._images |= rows_by_id(
            session, ProductImage, {self._new_id(item) for item in items if isinstance(item.row, NewExample)}
        )

    def apply(self, item: _Item, first_labels: dict[str, tuple[str, str | None]]) -> tuple[Outcome, str]:
        """Apply one row; raises ValueError with the reason, and changes nothing, if it cannot be used."""
        row = item.row
        if isinstance(row, Relabel):
            image = self._image_of(row)
            label = self._stored_label(row.label, self._products[image.product_id])
            self._check_consistent(first_labels, image.id, row.location, label)
            return self._set_label(image, label, row), image.id
        assert item.received is not None
        product = self._product_of(row)
        image_id = image_id_of(product.id, item.received.sha256)
        present = self._images.get(image_id)
        label = self._stored_label(row.label, product)
        if row.label is not None:
            self._check_consistent(first_labels, image_id, row.location, label)
        if present is not None and present.deleted_at is None:
            if present.role == CATALOGUE:
                raise ValueError(
                    f"the image is already a catalogue image of {product.id!r} (image_id {image_id}) and cannot become "
                    "an example; set its label by its image_id"
                )
            return (self._set_label(present, label, row) if row.label is not None else "unchanged"), image_id
        self._add(image_id, product, item.received.sha256, label, row)
        return "added", image_id

    def write(self) -> None:
        """Add the changed images, with new change numbers, and the records of their labels to the session."""
        changed = list(self._changed.values())
        self._session.add_all(changed)
        number_changes(self._session, changed)
        # The records refer to the images, which must be inserted first.
        self._session.flush()
        self._session.add_all(self._history)

    def _set_label(self, image: ProductImage, label: str | None, row: LabelRow) -> Outcome:
        if image.label == label:
            return "unchanged"
        self._history.append(relabel(image, label, actor=row.labelled_by or self._actor, source=self._source_name))
        self._changed[image.id] = image
        return "changed"

    def _add(self, image_id: str, product: Product, sha256: str, label: str | None, row: LabelRow) -> None:
        image = self._images.get(image_id)
        if image is None:
            image = ProductImage(
                id=image_id, product_id=product.id, sha256=sha256, role=EXAMPLE, label=None, created_at=now()
            )
            self._images[image_id] = image
        image.role, image.deleted_at = EXAMPLE, None
        self._history.append(relabel(image, label, actor=row.labelled_by or self._actor, source=self._source_name))
        self._changed[image_id] = image

    def _image_of(self, row: Relabel) -> ProductImage:
        """Return the image that a row refers to; raises ValueError if there is none, or more than one."""
        reference = f"image_id {row.image_id!r}" if row.image_id is not None else f"sha256 {row.sha256!r}"
        if row.product_id is not None and row.image_id is None:
            reference += f" of {row.product_id!r}"
        found = [
            image
            for image in self._images.values()
            if (image.id == row.image_id if row.image_id is not None else image.sha256 == row.sha256)
            and (row.image_id is not None or row.product_id in (None, image.product_id))
        ]
        existing = [
            image for image in found if image.deleted_at is None and _exists(self._products.get(image.product_id))
        ]
        if not found:
            raise ValueError(f"the catalogue has no image with {reference}; look it up, or send the image itself")
        if not existing:
            raise ValueError(f"the image with {reference} was removed; import it again")
        if len(existing) > 1:
            names = ", ".join(sorted(repr(image.product_id) for image in existing)[:_NUM_SHOWN_PRODUCTS])
            raise ValueError(f"several products have the image with {reference} ({names}); give the product_id too")
        if row.product_id not in (None, existing[0].product_id):
            raise ValueError(
                f"the image with {reference} belongs to {existing[0].product_id!r}, but the row has the product_id "
                f"{row.product_id!r}"
            )
        return existing[0]

    def _product_of(self, row: NewExample) -> Product:
        """Return the product that a new image is added to; raises ValueError if there is none."""
        if row.product_id is not None:
            product = self._products.get(row.product_id)
            description = f"product {row.product_id!r}"
        else:
            product = self._products_of_labels.get(row.label or "")
            description = f"product with the id or label {row.label!r}"
        if product is None or not _exists(product):
            raise ValueError(f"the catalogue has no {description}; import the product first")
        return product

    def _new_id(self, item: _Item) -> str:
        row = item.row
        assert isinstance(row, NewExample)
        assert item.received is not None
        product = self._products_of_labels.get(row.label or "") if row.product_id is None else None
        return image_id_of(product.id if product else row.product_id or "", item.received.sha256)

    def _load_images(self, items: list[_Item]) -> dict[str, ProductImage]:
        relabels = [item.row for item in items if isinstance(item.row, Relabel)]
        images = rows_by_id(self._session, ProductImage, {row.image_id for row in relabels if row.image_id})
        digests = {row.sha256 for row in relabels if row.sha256}
        if digests:
            query = select(ProductImage).where(ProductImage.sha256.in_(digests))
            images.update((image.id, image) for image in self._session.scalars(query))
        return images

    @staticmethod
    def _stored_label(label: str | None, product: Product) -> str | None:
        """Return None for the product's own label, which is stored as None only."""
        return None if label in (None, product.label or product.id) else label

    @staticmethod
    def _check_consistent(
        first_labels: dict[str, tuple[str, str | None]], image_id: str, location: str, label: str | None
    ) -> None:
        first, first_label = first_labels.setdefault(image_id, (location, label))
        if first_label != label:
            shown = "its product's label" if first_label is None else f"label {first_label!r}"
            here = "its product's" if label is None else repr(label)
            raise ValueError(f"the same image has {shown} at {first} and {here} here; remove one of the two rows")


def _exists(product: Product | None) -> bool:
    return product is not None and product.deleted_at is None


def _product_of_label(session: Session, label: str) -> Product | None:
    """Return the product whose id is the label; else the one with the lowest id among the products with the label, or
    else with an image of the label.
    """
    product = session.get(Product, label)
    if _exists(product):
        return product
    is_present = Product.deleted_at.is_(None)
    of_product = select(func.min(Product.id)).where(Product.label == label, is_present)
    of_image = (
        select(func.min(Product.id))
        .join(ProductImage, ProductImage.product_id == Product.id)
        .where(ProductImage.label == label, ProductImage.deleted_at.is_(None), is_present)
    )
    product_id = session.scalar(of_product) or session.scalar(of_image)
    return None if product_id is None else session.get(Product, product_id)
