"""Apply labels to images of the catalogue, and add new labelled images as examples: resumable and idempotent.

Rows are processed as in an import: in chunks, images first, each chunk in one transaction. A new image needs an
existing product and becomes an example, which is used for training and evaluation and never returned by a search.
Every change of a label is recorded.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

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
from service.catalogue.records import KEYS_PER_QUERY, chunks
from service.catalogue.reports import OnErrors, OnProgress, add_errors
from service.catalogue.sources import RowError, first_reasons, without_folder
from service.installation.installation import Installation
from service.labels.sources import LabelRow, LabelSource, NewExample, Relabel
from service.storage.database import now
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE, LabelChange, Product, ProductImage
from training.datasets.rows import LeftOut

# Products that were found by a label; beyond, they are looked up again.
_MAX_KNOWN_LABELS = 10_000
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
    on_error: OnErrors | None = None,
) -> LabelReport:
    """Set the labels of the rows and add new images as examples; a bad row does not stop the others.

    `actor` is recorded for rows that name nobody, and `source_name` with every change. The same source applied again
    changes nothing. With `dry_run` everything is checked and nothing is written. The report keeps the first errors;
    `on_error` receives all of them, chunk by chunk.

    Raises MediaError, StorageFull.
    """
    report = LabelReport(source.layout, dry_run, num_skipped=source.num_skipped, understood=source.understood)
    report.notes.extend(source.notes)
    report.left_out.extend(source.left_out)
    start = time.perf_counter()
    num_done = 0
    with FirstValues() as first_values, ThreadPoolExecutor(2, thread_name_prefix="labels") as pool:
        run = _LabelRun(installation, report, actor, source_name, source.folder, first_values, on_error)
        for rows in chunks_of_rows(source.rows, CHUNK_ROWS):
            run.apply_chunk(rows, pool)
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, source.num_rows)
    report.seconds = time.perf_counter() - start
    return report


class _LabelRun:
    """State of one run: its report, and the labels of earlier rows, to detect contradictions."""

    def __init__(
        self,
        installation: Installation,
        report: LabelReport,
        actor: str,
        source_name: str,
        folder: Path | None,
        first_values: FirstValues,
        on_error: OnErrors | None,
    ) -> None:
        self.report = report
        self._database = installation.database
        self._intake = ImageIntake(installation.database, installation.media_store, installation.limits)
        self._actor = actor
        self._source_name = source_name
        self._folder = folder
        self._first_values = first_values
        self._on_error = on_error
        self._errors: list[RowError] = []  # of the present chunk
        self._products_of_labels: dict[str, str] = {}  # ids of products that were found by a label

    def apply_chunk(self, rows: list[LabelRow | RowError], pool: ThreadPoolExecutor) -> None:
        """Apply one chunk of rows."""
        self._apply_items(self._items(rows, pool))
        errors, self._errors = self._errors, []
        add_errors(self.report, errors, self._on_error)

    def _apply_items(self, items: list[_Item]) -> None:
        # First without the lock, to find the rows that can be used: only their images are stored.
        with self._database.reading() as session, session.no_autoflush:
            merge = self._merge(session, items)
            used = self._usable(items, merge)
            session.expunge_all()
        if self.report.dry_run or not merge.has_changes:
            self._count(used)
            return
        items = [item for item, _, _ in used]
        self._intake.store([item.received for item in items if item.received is not None])
        with self._database.transaction() as session, session.no_autoflush:
            lock_changes(session)
            merge = self._merge(session, items)
            used = self._usable(items, merge)
            insert_media(session, [item.received for item, _, _ in used if item.received is not None])
            merge.write()
        self._count(used)

    def _merge(self, session: Session, items: list[_Item]) -> "_Merge":
        labels = {
            item.row.label
            for item in items
            if isinstance(item.row, NewExample) and item.row.product_id is None and item.row.label
        }
        if len(self._products_of_labels) > _MAX_KNOWN_LABELS:
            self._products_of_labels.clear()
        self._products_of_labels |= _products_of(session, labels - self._products_of_labels.keys())
        return _Merge(session, items, self._products_of_labels, self._actor, self._source_name)

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

    def _usable(self, items: list[_Item], merge: "_Merge") -> list[tuple[_Item, Outcome, str]]:
        """Apply the rows to the session; return those that can be used, with their outcomes and images."""
        usable: list[tuple[_Item, Outcome, str]] = []
        for item in items:
            try:
                usable.append((item, *merge.apply(item, self._first_values)))
            except ValueError as error:
                self._fail(item.row.location, str(error))
        return usable

    def _count(self, used: list[tuple[_Item, Outcome, str]]) -> None:
        for _, outcome, image_id in used:
            # A dry run sees the same new image again in each chunk.
            if outcome == "added" and self._first_values.is_new("added", image_id):
                self.report.num_added += 1
            elif outcome == "changed":
                self.report.num_changed += 1
            else:
                self.report.num_unchanged += 1

    def _fail(self, location: str, message: str) -> None:
        self._errors.append(RowError(location, without_folder(message, self._folder)))


class _Merge:
    """Applies the rows of one chunk to the tables, in one session."""

    def __init__(
        self,
        session: Session,
        items: list[_Item],
        products_of_labels: Mapping[str, str],
        actor: str,
        source_name: str,
    ) -> None:
        self._session = session
        self._actor = actor
        self._source_name = source_name
        self._changed: dict[str, ProductImage] = {}
        self._history: list[LabelChange] = []
        self._ids_of_labels = products_of_labels
        self._images = self._load_images(items)
        named = {image.product_id for image in self._images.values()}
        named |= {self._product_id_of(item.row) for item in items if isinstance(item.row, NewExample)}
        named |= {item.row.product_id for item in items if item.row.product_id is not None}
        self._products = rows_by_id(session, Product, named - {""})
        self._images |= rows_by_id(
            session, ProductImage, {self._new_id(item) for item in items if isinstance(item.row, NewExample)}
        )
        self._by_content: dict[str, list[ProductImage]] = {}
        for image in self._images.values():
            self._by_content.setdefault(image.sha256, []).append(image)

    @property
    def has_changes(self) -> bool:
        """Whether a row has changed anything."""
        return bool(self._changed)

    def apply(self, item: _Item, first_labels: FirstValues) -> tuple[Outcome, str]:
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
            self._by_content.setdefault(sha256, []).append(image)
        image.role, image.deleted_at = EXAMPLE, None
        self._history.append(relabel(image, label, actor=row.labelled_by or self._actor, source=self._source_name))
        self._changed[image_id] = image

    def _image_of(self, row: Relabel) -> ProductImage:
        """Return the image that a row refers to; raises ValueError if there is none, or more than one."""
        reference = f"image_id {row.image_id!r}" if row.image_id is not None else f"sha256 {row.sha256!r}"
        if row.product_id is not None and row.image_id is None:
            reference += f" of {row.product_id!r}"
        if row.image_id is not None:
            found = [self._images[row.image_id]] if row.image_id in self._images else []
        else:
            same = self._by_content.get(row.sha256 or "", [])
            found = [image for image in same if row.product_id in (None, image.product_id)]
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
        product = self._products.get(self._product_id_of(row))
        description = (
            f"product {row.product_id!r}"
            if row.product_id is not None
            else f"product with the id or label {row.label!r}"
        )
        if product is None or not _exists(product):
            raise ValueError(f"the catalogue has no {description}; import the product first")
        return product

    def _new_id(self, item: _Item) -> str:
        row = item.row
        assert isinstance(row, NewExample)
        assert item.received is not None
        return image_id_of(self._product_id_of(row), item.received.sha256)

    def _product_id_of(self, row: NewExample) -> str:
        """Return the id of the product that a new image is added to; empty if its label is that of no product."""
        return row.product_id if row.product_id is not None else self._ids_of_labels.get(row.label or "", "")

    def _load_images(self, items: list[_Item]) -> dict[str, ProductImage]:
        relabels = [item.row for item in items if isinstance(item.row, Relabel)]
        images = rows_by_id(self._session, ProductImage, {row.image_id for row in relabels if row.image_id})
        digests = {row.sha256 for row in relabels if row.sha256}
        for part in chunks(digests, KEYS_PER_QUERY):
            query = select(ProductImage).where(ProductImage.sha256.in_(part))
            images.update((image.id, image) for image in self._session.scalars(query))
        return images

    @staticmethod
    def _stored_label(label: str | None, product: Product) -> str | None:
        """Return None for the product's own label, which is stored as None only."""
        return None if label in (None, product.label or product.id) else label

    @staticmethod
    def _check_consistent(first_labels: FirstValues, image_id: str, location: str, label: str | None) -> None:
        first, first_label = first_labels.first("label", image_id, location, label)
        if first_label != label:
            shown = "its product's label" if first_label is None else f"label {first_label!r}"
            here = "its product's" if label is None else repr(label)
            raise ValueError(f"the same image has {shown} at {first} and {here} here; remove one of the two rows")


def _exists(product: Product | None) -> bool:
    return product is not None and product.deleted_at is None


def _products_of(session: Session, labels: set[str]) -> dict[str, str]:
    """Return the id of the product of each label: the one whose id is the label; else the one with the lowest id among
    the products with the label, or else with an image of the label.
    """
    is_present = Product.deleted_at.is_(None)
    found: dict[str, str] = {}
    for label in (Product.id, Product.label, ProductImage.label):
        query = select(label, func.min(Product.id)).where(is_present).group_by(label)
        if label is ProductImage.label:
            query = query.join(ProductImage, ProductImage.product_id == Product.id)
            query = query.where(ProductImage.deleted_at.is_(None))
        for part in chunks(labels - found.keys(), KEYS_PER_QUERY):
            found.update((str(row[0]), row[1]) for row in session.execute(query.where(label.in_(part))))
    return found
