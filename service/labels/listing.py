"""Look at labels: which image shows what, who said so, and whether it trains or is held out."""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalogue.records import LabelledImage, chunks, labelled_images
from service.labels.errors import ImageNotFound
from service.releases.records import active_release
from service.storage.database import current_watermark, in_utc
from service.storage.media import MediaName
from service.storage.tables.catalogue import EXAMPLE, LabelChange, MediaObject, ProductImage
from service.storage.tables.releases import Release
from training.data.label_states import LabelState, held_out_states
from training.data.snapshot import SnapshotImage, snapshot_of
from training.data.splits import SplitConfig

STATES: tuple[LabelState, ...] = get_args(LabelState)

_KEYS_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class LabelOverview:
    """All images with their labels at one moment, ordered by image id, and what becomes of each in training."""

    watermark: int
    images: list[LabelledImage]
    states: list[LabelState]

    def find(self, image_id: str) -> int:
        """Return the place of an image; raises ImageNotFound."""
        place = bisect_right(self.images, image_id, key=lambda image: image.image_id) - 1
        if place < 0 or self.images[place].image_id != image_id:
            raise ImageNotFound(f"the catalogue has no image {image_id!r:.80}; see: akin catalogue labels")
        return place


class LabelOverviews:
    """The newest overview, kept until the catalogue changes: what is held out follows from all labels together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: LabelOverview | None = None

    def of(self, session: Session) -> LabelOverview:
        """Return the overview of what a session sees."""
        watermark = current_watermark(session)
        # One computes, the others wait for it.
        with self._lock:
            if self._newest is None or self._newest.watermark != watermark:
                self._newest = take_overview(session)
            return self._newest


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """One image, its label, and how it came by it."""

    image: LabelledImage
    state: LabelState
    is_new: bool  # since the catalogue that the active release shows
    labelled_by: str | None
    labelled_at: datetime | None
    label_source: str | None


@dataclass(slots=True)
class ClassCounts:
    """How many images there are of a class, or of all."""

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


def take_overview(session: Session) -> LabelOverview:
    """Read all labels, and work out which images are held out, as every training run does."""
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
    return LabelOverview(current_watermark(session), images, [state_of[image.image_id] for image in images])


def list_labels(
    session: Session,
    overview: LabelOverview,
    *,
    label: str | None = None,
    role: str | None = None,
    state: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> tuple[list[LabelFacts], str | None]:
    """Return the first `limit` images after the image id `after`, and that after which there are more."""
    start = 0
    if after is not None:
        start = bisect_right(overview.images, after, key=lambda image: image.image_id)
    found: list[int] = []
    for place in range(start, len(overview.images)):
        image = overview.images[place]
        if label in (None, image.label) and role in (None, image.role) and state in (None, overview.states[place]):
            found.append(place)
            if len(found) > limit:
                break
    page = found[:limit]
    last = overview.images[page[-1]].image_id if len(found) > limit else None
    return _facts(session, overview, page), last


def count_labels(session: Session, overview: LabelOverview) -> tuple[ClassCounts, dict[str, ClassCounts]]:
    """Count images in all, and by label in the order of labels."""
    shown = release_watermark(session)
    query = select(ProductImage.id).where(ProductImage.change_seq > shown)
    new = set(session.scalars(query))
    total = ClassCounts()
    classes: dict[str, ClassCounts] = {}
    for image, state in zip(overview.images, overview.states, strict=True):
        is_new = image.image_id in new
        total.add(image.role, state, is_new)
        classes.setdefault(image.label, ClassCounts()).add(image.role, state, is_new)
    return total, dict(sorted(classes.items()))


def show_label(session: Session, overview: LabelOverview, image_id: str) -> tuple[LabelFacts, list[LabelChange]]:
    """Return an image with all changes of its label, the oldest first; raises ImageNotFound."""
    (facts,) = _facts(session, overview, [overview.find(image_id)])
    query = select(LabelChange).where(LabelChange.image_id == image_id).order_by(LabelChange.id)
    return facts, list(session.scalars(query))


def release_watermark(session: Session) -> int:
    """Return how far the active release has followed the catalogue; 0 where none is active."""
    release_id = active_release(session).release_id
    release = session.get(Release, release_id) if release_id else None
    return release.watermark if release else 0


def is_stored(session: Session, name: MediaName) -> bool:
    """Say whether an image is known under this name, whatever shows it."""
    media = session.get(MediaObject, name.sha256)
    return media is not None and media.extension == name.extension


def _facts(session: Session, overview: LabelOverview, places: Sequence[int]) -> list[LabelFacts]:
    shown = release_watermark(session)
    rows: dict[str, ProductImage] = {}
    for part in chunks([overview.images[place].image_id for place in places], _KEYS_PER_QUERY):
        rows.update((row.id, row) for row in session.scalars(select(ProductImage).where(ProductImage.id.in_(part))))
    facts = []
    for place in places:
        image = overview.images[place]
        row = rows[image.image_id]
        facts.append(
            LabelFacts(
                image,
                overview.states[place],
                row.change_seq > shown,
                row.labelled_by,
                in_utc(row.labelled_at),
                row.label_source,
            )
        )
    return facts
