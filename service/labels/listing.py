"""Labels of images: who set them, and whether training uses an image or holds it out."""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalogue.records import KEYS_PER_QUERY, LabelledImage, chunks, labelled_images
from service.labels.errors import ImageNotFound
from service.releases.records import active_release
from service.storage.database import Database, current_watermark, in_utc
from service.storage.tables.catalogue import EXAMPLE, LabelChange, ProductImage
from service.storage.tables.releases import Release
from training.data.label_states import LabelState, held_out_states
from training.data.snapshot import SnapshotImage, snapshot_of
from training.data.splits import SplitConfig

STATES: tuple[LabelState, ...] = get_args(LabelState)


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """One image, its label, and who set it."""

    image: LabelledImage
    state: LabelState
    is_new: bool  # added or changed since the active release was built
    labelled_by: str | None
    labelled_at: datetime | None
    label_source: str | None


@dataclass(slots=True)
class ClassCounts:
    """Numbers of images, of one class or of all classes."""

    num_images: int = 0
    num_catalogue: int = 0
    num_examples: int = 0
    num_train: int = 0
    num_validation: int = 0
    num_test: int = 0
    num_new: int = 0

    def add(self, role: str, state: LabelState, is_new: bool) -> None:
        """Count one image."""
        self.num_images += 1
        self.num_examples += role == EXAMPLE
        self.num_catalogue += role != EXAMPLE
        self.num_train += state == "train"
        self.num_validation += state == "validation"
        self.num_test += state == "test"
        self.num_new += is_new


@dataclass(frozen=True, slots=True)
class LabelPage:
    """Images ordered by id; `next` is the id to continue after, None on the last page."""

    images: list[LabelFacts]
    next: str | None


@dataclass(frozen=True, slots=True)
class CountsPage:
    """Counts of all images, and of a page of classes ordered by label.

    `next` is the label to continue after, None on the last page.
    """

    watermark: int
    release_watermark: int  # 0 if no release is active
    total: ClassCounts
    num_classes: int
    classes: dict[str, ClassCounts]
    next: str | None


@dataclass(frozen=True, slots=True)
class _Overview:
    """All images with their labels at one moment, ordered by image id, and the state of each."""

    watermark: int
    images: list[LabelledImage]
    states: list[LabelState]

    def find(self, image_id: str) -> int:
        """Return the position of an image; raises ImageNotFound."""
        position = self.first_after(image_id) - 1
        if position < 0 or self.images[position].image_id != image_id:
            raise ImageNotFound(f"the catalogue has no image {image_id!r:.80}; see: akin catalogue labels")
        return position

    def first_after(self, image_id: str) -> int:
        """Return the position of the first image whose id is greater."""
        return bisect_right(self.images, image_id, key=lambda image: image.image_id)


class LabelListing:
    """Lists, counts and shows the labels of a catalogue.

    Which images are held out depends on all labels, so an overview is kept until the catalogue changes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._newest: _Overview | None = None

    def page(
        self, *, label: str | None, role: str | None, state: str | None, after: str | None, limit: int
    ) -> LabelPage:
        """Return the first `limit` images with these properties whose ids are greater than `after`."""
        with self._database.reading() as session:
            overview = self._overview(session)
            start = 0 if after is None else overview.first_after(after)
            found: list[int] = []
            for position in range(start, len(overview.images)):
                image = overview.images[position]
                if (
                    label in (None, image.label)
                    and role in (None, image.role)
                    and state in (None, overview.states[position])
                ):
                    found.append(position)
                    if len(found) > limit:
                        break
            page = found[:limit]
            following = overview.images[page[-1]].image_id if len(found) > limit else None
            return LabelPage(_facts(session, overview, page), following)

    def counts(self, *, after: str | None = None, limit: int | None = None) -> CountsPage:
        """Count all images, and those of the first `limit` labels greater than `after`."""
        with self._database.reading() as session:
            overview = self._overview(session)
            shown = _release_watermark(session)
            new = set(session.scalars(select(ProductImage.id).where(ProductImage.change_seq > shown)))
        total = ClassCounts()
        classes: dict[str, ClassCounts] = {}
        for image, state in zip(overview.images, overview.states, strict=True):
            is_new = image.image_id in new
            total.add(image.role, state, is_new)
            classes.setdefault(image.label, ClassCounts()).add(image.role, state, is_new)
        labels = [label for label in sorted(classes) if after is None or label > after]
        page = labels[:limit]
        return CountsPage(
            watermark=overview.watermark,
            release_watermark=shown,
            total=total,
            num_classes=len(classes),
            classes={label: classes[label] for label in page},
            next=page[-1] if len(labels) > len(page) else None,
        )

    def show(self, image_id: str) -> tuple[LabelFacts, list[LabelChange]]:
        """Return an image with all changes of its label, oldest first; raises ImageNotFound."""
        with self._database.reading() as session:
            overview = self._overview(session)
            (facts,) = _facts(session, overview, [overview.find(image_id)])
            query = select(LabelChange).where(LabelChange.image_id == image_id).order_by(LabelChange.id)
            return facts, list(session.scalars(query))

    def _overview(self, session: Session) -> _Overview:
        watermark = current_watermark(session)
        # One thread computes the overview while the others wait for it.
        with self._lock:
            if self._newest is None or self._newest.watermark != watermark:
                self._newest = _take_overview(session)
            return self._newest


def _take_overview(session: Session) -> _Overview:
    """Read all labels, and determine the held-out images as every training run does."""
    images = labelled_images(session)
    snapshot_images = [
        SnapshotImage(
            location=image.image_id,
            path=Path(),
            label=image.label,
            role="example" if image.role == EXAMPLE else "catalogue",
            part="",
            sha256=image.media_name.sha256,
        )
        for image in images
    ]
    state_of: dict[str, LabelState] = {}
    if snapshot_images:
        snapshot = snapshot_of("catalogue", snapshot_images)
        states = held_out_states(snapshot, SplitConfig())
        state_of = {image.location: state for image, state in zip(snapshot.images, states, strict=True)}
    return _Overview(current_watermark(session), images, [state_of[image.image_id] for image in images])


def _release_watermark(session: Session) -> int:
    """Return the last change of the catalogue that the active release contains; 0 if none is active."""
    release_id = active_release(session).release_id
    release = session.get(Release, release_id) if release_id else None
    return release.watermark if release else 0


def _facts(session: Session, overview: _Overview, positions: Sequence[int]) -> list[LabelFacts]:
    shown = _release_watermark(session)
    rows: dict[str, ProductImage] = {}
    for part in chunks([overview.images[position].image_id for position in positions], KEYS_PER_QUERY):
        rows.update((row.id, row) for row in session.scalars(select(ProductImage).where(ProductImage.id.in_(part))))
    facts = []
    for position in positions:
        image = overview.images[position]
        row = rows[image.image_id]
        facts.append(
            LabelFacts(
                image,
                overview.states[position],
                row.change_seq > shown,
                row.labelled_by,
                in_utc(row.labelled_at),
                row.label_source,
            )
        )
    return facts
