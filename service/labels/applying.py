"""Take labels in: what images of the catalogue show, and new examples; resumable, repeatable, each change on record.

Rows go the way of an import: in chunks, images first, each chunk in one transaction. A new image needs a product
that is there, and becomes an example, which trains and evaluates and is never returned.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.catalogue.changes import lock_changes, number_changes, relabel
from service.catalogue.images import ImageIntake, ReceivedImage, image_id_of, new_media_of, rows_by_id
from service.catalogue.records import chunks
from service.catalogue.sources import RowError, first_reasons, without_folder
from service.installation.installation import Installation
from service.labels.sources import LabelRow, LabelSource, NewExample, Relabel
from service.storage.database import now
from service.storage.tables.catalogue import CATALOGUE, EXAMPLE, LabelChange, Product, ProductImage

_CHUNK_ROWS = 32
# All are counted; a file of a million bad rows needs no million messages.
_MOST_ERRORS = 10_000
_MOST_NAMED = 3

Outcome = Literal["added", "changed", "unchanged"]
OnProgress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(slots=True)
class LabelReport:
    """What labels did, or would do (`dry_run`). Each row is counted once."""

    layout: str
    dry_run: bool
    num_added: int = 0
    num_changed: int = 0
    num_unchanged: int = 0
    num_failed: int = 0
    num_ignored: int = 0
    seconds: float = 0.0
    errors: list[RowError] = field(default_factory=list)  # the first of those that failed

    @property
    def num_usable(self) -> int:
        """How many rows could be used, changed by them or not."""
        return self.num_added + self.num_changed + self.num_unchanged

    def reasons(self) -> str:
        """Say in one line why the first rows failed."""
        return first_reasons(self.errors, self.num_failed)

    def to_json(self) -> dict[str, Any]:
        """Return the report as it is written to a file."""
        return asdict(self)


@dataclass(slots=True)
class _Item:
    """A row, with its image where it brings one."""

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
    """Give images the labels of the rows, and add new images as examples; a bad row does not stop the others.

    `actor` labelled what says nobody else; `source_name` is kept with each change. Applied again, the same source
    changes nothing, and one that was cut off goes on. With `dry_run` everything is checked and nothing written.
    """
    report = LabelReport(source.layout, dry_run, num_ignored=source.num_ignored)
    run = _LabelRun(installation, report, actor, source_name, source.folder)
    start = time.perf_counter()
    num_done = 0
    with ThreadPoolExecutor(2, thread_name_prefix="labels") as pool:
        for rows in chunks(source.rows, _CHUNK_ROWS):
            run.take(rows, pool)
            num_done += len(rows)
            if on_progress:
                on_progress(num_done, source.num_rows)
    report.seconds = time.perf_counter() - start
    return report


class _LabelRun:
    """State of one run: the report, and what earlier rows of the same source said."""

    def __init__(
        self, installation: Installation, report: LabelReport, actor: str, source_name: str, folder: Path | None
    ) -> None:
        self.report = report
        self._database = installation.database
        self._intake = ImageIntake(installation.database, installation.media_store, installation.limits)
        self._actor = actor
        self._source_name = source_name
        self._folder = folder
        self._said: dict[str, tuple[str, str | None]] = {}  # by image id: who said first what it shows
        self._added: set[str] = set()  # a dry run meets the same new image again and again

    def take(self, rows: list[LabelRow | RowError], pool: ThreadPoolExecutor) -> None:
        """Apply one chunk of rows."""
        items = self._items(rows, pool)
        # First without the lock, so that images of rows that cannot be used are not stored.
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
        """Read the images of the rows; what failed goes to the report."""
        new = [row for row in rows if isinstance(row, NewExample)]
        received_images = {id(row): taken for row, taken in zip(new, self._intake.take(new, pool), strict=True)}
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
        """Apply the rows to what the session holds; return those that could be, and count them at last."""
        usable: list[_Item] = []
        for item in items:
            try:
                outcome, image_id = merged.apply(item, self._said)
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
        if len(self.report.errors) < _MOST_ERRORS:
            self.report.errors.append(RowError(location, without_folder(message, self._folder)))


class _Merge:
    """The rows of one chunk against the tables, as one transaction sees them."""

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

    def apply(self, item: _Item, said: dict[str, tuple[str, str | None]]) -> tuple[Outcome, str]:
        """Bring the image of a row to what it says; raises ValueError with what is wrong, and changes nothing."""
        row = item.row
        if isinstance(row, Relabel):
            image = self._image_of(row)
            label = self._normal(row.label, self._products[image.product_id])
            self._check_first(said, image.id, row.location, label)
            return self._give(image, label, row), image.id
        assert item.received is not None
        product = self._product_of(row)
        image_id = image_id_of(product.id, item.received.sha256)
        present = self._images.get(image_id)
        label = self._normal(row.label, product)
        if row.label is not None:
            self._check_first(said, image_id, row.location, label)
        if present is not None and present.deleted_at is None:
            if present.role == CATALOGUE:
                raise ValueError(
                    f"the image is one of the catalogue's own of {product.id!r} (image_id {image_id}), and labels "
                    "make no example of it; label it by its image_id"
                )
            return (self._give(present, label, row) if row.label is not None else "unchanged"), image_id
        self._add(image_id, product, item.received.sha256, label, row)
        return "added", image_id

    def write(self) -> None:
        """Write what has changed, under new change numbers."""
        changed = list(self._changed.values())
        self._session.add_all(changed)
        number_changes(self._session, changed)
        # The images first: the records of their labels name them.
        self._session.flush()
        self._session.add_all(self._history)

    def _give(self, image: ProductImage, label: str | None, row: LabelRow) -> Outcome:
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
        """Return the image that a row means; raises ValueError for none, or several."""
        what = f"image_id {row.image_id!r}" if row.image_id is not None else f"sha256 {row.sha256!r}"
        if row.product_id is not None and row.image_id is None:
            what += f" of {row.product_id!r}"
        found = [
            image
            for image in self._images.values()
            if (image.id == row.image_id if row.image_id is not None else image.sha256 == row.sha256)
            and (row.image_id is not None or row.product_id in (None, image.product_id))
        ]
        living = [image for image in found if image.deleted_at is None and _lives(self._products.get(image.product_id))]
        if not found:
            raise ValueError(f"the catalogue has no image of {what}; look it up, or send the image itself")
        if not living:
            raise ValueError(f"the image of {what} was removed; import it again")
        if len(living) > 1:
            names = ", ".join(sorted(repr(image.product_id) for image in living)[:_MOST_NAMED])
            raise ValueError(f"several products have the image of {what} ({names}); give the product_id too")
        if row.product_id not in (None, living[0].product_id):
            raise ValueError(f"the image of {what} is of {living[0].product_id!r}, and the row says {row.product_id!r}")
        return living[0]

    def _product_of(self, row: NewExample) -> Product:
        """Return the product that a new image is added to; raises ValueError when there is none."""
        if row.product_id is not None:
            product = self._products.get(row.product_id)
            what = f"product {row.product_id!r}"
        else:
            product = self._products_of_labels.get(row.label or "")
            what = f"product of the id or label {row.label!r}"
        if product is None or not _lives(product):
            raise ValueError(f"the catalogue has no {what}; import the product first")
        return product

    def _new_id(self, item: _Item) -> str:
        row = item.row
        assert isinstance(row, NewExample)
        assert item.received is not None
        product = self._products_of_labels.get(row.label or "") if row.product_id is None else None
        return image_id_of(product.id if product else row.product_id or "", item.received.sha256)

    def _load_images(self, items: list[_Item]) -> dict[str, ProductImage]:
        named = [item.row for item in items if isinstance(item.row, Relabel)]
        images = rows_by_id(self._session, ProductImage, {row.image_id for row in named if row.image_id})
        digests = {row.sha256 for row in named if row.sha256}
        if digests:
            query = select(ProductImage).where(ProductImage.sha256.in_(digests))
            images.update((image.id, image) for image in self._session.scalars(query))
        return images

    @staticmethod
    def _normal(label: str | None, product: Product) -> str | None:
        """Return None for the product's own label, however it is said: two ways to say it would look like a change."""
        return None if label in (None, product.label or product.id) else label

    @staticmethod
    def _check_first(said: dict[str, tuple[str, str | None]], image_id: str, location: str, label: str | None) -> None:
        first, first_label = said.setdefault(image_id, (location, label))
        if first_label != label:
            shown = "its product's label" if first_label is None else f"label {first_label!r}"
            here = "its product's" if label is None else repr(label)
            raise ValueError(f"the same image has {shown} at {first} and {here} here; keep one of the two")


def _lives(product: Product | None) -> bool:
    return product is not None and product.deleted_at is None


def _product_of_label(session: Session, label: str) -> Product | None:
    """Return the product that images of a label belong to: of that id, else the lowest id that goes by the label."""
    product = session.get(Product, label)
    if _lives(product):
        return product
    living = Product.deleted_at.is_(None)
    of_product = select(func.min(Product.id)).where(Product.label == label, living)
    of_image = (
        select(func.min(Product.id))
        .join(ProductImage, ProductImage.product_id == Product.id)
        .where(ProductImage.label == label, ProductImage.deleted_at.is_(None), living)
    )
    product_id = session.scalar(of_product) or session.scalar(of_image)
    return None if product_id is None else session.get(Product, product_id)
