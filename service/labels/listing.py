"""Labels of images: who set them, and whether training uses an image or holds it out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, union_all
from sqlalchemy.orm import Session

from service.catalogue.records import KEYS_PER_QUERY, LabelledImage, chunks
from service.labels.errors import ImageNotFound, LabelsBeingCounted
from service.labels.split_rule import STATES
from service.labels.states import update_states
from service.releases.records import active_release
from service.storage.database import Database, in_utc
from service.storage.media import MediaName
from service.storage.tables.catalogue import ROLES, LabelChange, MediaObject, ProductImage
from service.storage.tables.releases import Release
from service.storage.tables.training import TrainingClass, TrainingImage, TrainingOverview
from training.data.label_states import LabelState
from training.datasets.identifiers import lookup_forms

# A request computes the states of about this many images, and is refused if changes are left.
_IMAGES_PER_REQUEST = 4_000


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """One image, its label, and who set it."""

    image: LabelledImage
    state: LabelState
    is_new: bool  # added or changed since the active release was built
    labelled_by: str | None
    labelled_at: datetime | None
    label_source: str | None


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Numbers of images, of one class or of all classes."""

    num_images: int
    num_catalogue: int
    num_examples: int
    num_train: int
    num_validation: int
    num_test: int
    num_new: int


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


class LabelListing:
    """Lists, counts and shows the labels of a catalogue, from tables that are brought up to date first.

    After many changes that nobody has listed, such as an upgrade with a large catalogue, this takes minutes. Unless
    `is_patient`, all methods then raise LabelsBeingCounted after a part of it, and a later call goes on.
    """

    def __init__(self, database: Database, *, is_patient: bool = False) -> None:
        self._database = database
        self._max_images = None if is_patient else _IMAGES_PER_REQUEST

    def page(
        self, *, label: str | None, role: str | None, state: str | None, after: str | None, limit: int
    ) -> LabelPage:
        """Return the first `limit` images with these properties whose ids are greater than `after`."""
        self._update()
        roles = ROLES if role is None else (role,)
        states = range(len(STATES)) if state is None else (STATES.index(state),)
        with self._database.reading() as session:
            if label is not None:
                label = _known_form(session, label)
            if label is None and (role, state) == (None, None):
                ids = _ids(session, after, limit + 1)
            else:
                ids = _matching_ids(session, label, roles, states, after, limit + 1)
            following = ids[limit - 1] if len(ids) > limit else None
            return LabelPage(_facts(session, ids[:limit]), following)

    def counts(self, *, after: str | None = None, limit: int | None = None) -> CountsPage:
        """Count all images, and those of the first `limit` labels greater than `after`."""
        self._update()
        with self._database.reading() as session:
            overview = session.get(TrainingOverview, 1)
            assert overview is not None
            shown = _release_watermark(session)
            query = select(TrainingClass).order_by(TrainingClass.label)
            if after is not None:
                query = query.where(TrainingClass.label > _storable(after))
            rows = session.scalars(query if limit is None else query.limit(limit + 1)).all()
            page = rows[:limit]
            num_new = _num_new_of(session, page, shown)
            total = _total_of(overview.totals, _num_new(session, shown))
        return CountsPage(
            watermark=overview.watermark,
            release_watermark=shown,
            total=total,
            num_classes=overview.totals["num_classes"],
            classes={row.label: _counts_of(row, num_new.get(row.label, 0)) for row in page},
            next=page[-1].label if len(rows) > len(page) else None,
        )

    def show(self, image_id: str) -> tuple[LabelFacts, list[LabelChange]]:
        """Return an image with all changes of its label, oldest first; raises ImageNotFound."""
        self._update()
        with self._database.reading() as session:
            facts = _facts(session, [image_id]) if _is_storable(image_id) else []
            if not facts:
                raise ImageNotFound(f"the catalogue has no image {image_id!r:.80}; see: akin catalogue labels")
            query = select(LabelChange).where(LabelChange.image_id == image_id).order_by(LabelChange.id)
            return facts[0], list(session.scalars(query))

    def _update(self) -> None:
        left = update_states(self._database, max_images=self._max_images)
        if left > 0:
            raise LabelsBeingCounted(
                f"the labels are being counted, and up to {left:,} changes of the catalogue are left; ask again"
            )


def _ids(session: Session, after: str | None, limit: int) -> list[str]:
    query = select(TrainingImage.image_id).where(TrainingImage.image_id > _storable(after or ""))
    return list(session.scalars(query.order_by(TrainingImage.image_id).limit(limit)))


def _known_form(session: Session, label: str) -> str:
    """Return the form of a label that images have; older versions did not normalise labels."""
    forms = lookup_forms(label)
    known = set(session.scalars(select(TrainingClass.label).where(TrainingClass.label.in_(forms))))
    return next((form for form in forms if form in known), label)


def _matching_ids(
    session: Session,
    label: str | None,
    roles: Collection[str],
    states: Collection[int],
    after: str | None,
    limit: int,
) -> list[str]:
    """Return the first ids of the images of a label, of these roles and in these states.

    Each role and state is read from an index that is ordered by id after them, so that no row is skipped: an image in a
    rare state is found without reading the others.
    """
    if label is not None and not _is_storable(label):
        return []
    parts = []
    for role in roles:
        for state in states:
            query = select(TrainingImage.image_id.label("id")).where(
                TrainingImage.role == role, TrainingImage.state == state
            )
            query = query.where(TrainingImage.image_id > _storable(after or ""))
            if label is not None:
                query = query.where(TrainingImage.label == label)
            parts.append(select(query.order_by(TrainingImage.image_id).limit(limit).subquery().c.id))
    return sorted(session.scalars(union_all(*parts)))[:limit]


def _facts(session: Session, image_ids: Sequence[str]) -> list[LabelFacts]:
    """Return the images with these ids in their order; unknown ones are left out."""
    shown = _release_watermark(session)
    found: dict[str, LabelFacts] = {}
    for part in chunks(image_ids, KEYS_PER_QUERY):
        rows = session.execute(
            select(TrainingImage, ProductImage, MediaObject.extension)
            .join(ProductImage, ProductImage.id == TrainingImage.image_id)
            .join(MediaObject, MediaObject.sha256 == TrainingImage.sha256)
            .where(TrainingImage.image_id.in_(part))
        )
        found.update((known.image_id, _facts_of(known, image, extension, shown)) for known, image, extension in rows)
    return [found[image_id] for image_id in image_ids if image_id in found]


def _facts_of(known: TrainingImage, image: ProductImage, extension: str, shown: int) -> LabelFacts:
    return LabelFacts(
        LabelledImage(
            image.id,
            image.product_id,
            known.label,
            known.role,
            MediaName(known.sha256, extension),
            in_utc(image.labelled_at or image.created_at),
        ),
        STATES[known.state],
        known.change_seq > shown,
        image.labelled_by,
        in_utc(image.labelled_at),
        image.label_source,
    )


def _total_of(totals: Mapping[str, int], num_new: int) -> ClassCounts:
    return ClassCounts(
        totals["num_catalogue"] + totals["num_examples"],
        totals["num_catalogue"],
        totals["num_examples"],
        totals["num_train"],
        totals["num_validation"],
        totals["num_test"],
        num_new,
    )


def _counts_of(row: TrainingClass, num_new: int) -> ClassCounts:
    return ClassCounts(
        row.num_catalogue + row.num_examples,
        row.num_catalogue,
        row.num_examples,
        row.num_train,
        row.num_validation,
        row.num_test,
        num_new,
    )


def _num_new(session: Session, shown: int) -> int:
    return session.scalar(select(func.count()).where(TrainingImage.change_seq > shown)) or 0


def _num_new_of(session: Session, page: Sequence[TrainingClass], shown: int) -> dict[str, int]:
    """Count the images of the classes that were changed after the watermark `shown`."""
    if not page:
        return {}
    if shown == 0:
        return {row.label: row.num_catalogue + row.num_examples for row in page}
    query = select(TrainingImage.label, func.count()).where(
        TrainingImage.label.between(page[0].label, page[-1].label), TrainingImage.change_seq > shown
    )
    return {row[0]: row[1] for row in session.execute(query.group_by(TrainingImage.label))}


def _release_watermark(session: Session) -> int:
    """Return the last change of the catalogue that the active release contains; 0 if none is active."""
    release_id = active_release(session).release_id
    release = session.get(Release, release_id) if release_id else None
    return release.watermark if release else 0


def _is_storable(text: str) -> bool:
    """Return whether the database may have this text: PostgreSQL rejects NUL, and drivers halves of surrogates."""
    return _storable(text) == text


def _storable(text: str) -> str:
    """Return the beginning of a text up to the first character that no database stores."""
    return text.partition("\0")[0].encode("utf-8", "ignore").decode()
