"""Keep the states of images up to date: whether training uses an image or holds it out, by the rule of its splits.

The derived tables follow the change numbers, whoever wrote the changes: each step takes the next changes in one short
transaction, so several processes may take steps at once, and an interrupted update goes on where it stopped.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from service.catalogue.records import KEYS_PER_QUERY, chunks
from service.labels.split_rule import (
    RULE,
    Choices,
    counts_of,
    drawn_state,
    groups_between,
    make_choices,
    own_state,
    sum_of_classes,
)
from service.storage.database import Database, current_watermark
from service.storage.tables.catalogue import ROLES, Product, ProductImage
from service.storage.tables.training import TrainingClass, TrainingImage, TrainingOverview

# Changes, or images to compute again, in one transaction: others wait for it, SQLite's writers in any case.
CHANGES_PER_STEP = 2_000

# Of an image: also of one whose product was deleted.
_IS_DELETED = or_(ProductImage.deleted_at.is_not(None), Product.deleted_at.is_not(None))
_LABEL = func.coalesce(ProductImage.label, Product.label, Product.id)


class _Changed(NamedTuple):
    """An image as the catalogue has it now."""

    image_id: str
    product_id: str
    label: str
    sha256: str
    role: str
    change_seq: int
    is_deleted: bool
    known_label: str | None  # of its derived row; None: there is none

    @property
    def has_moved(self) -> bool:
        """Whether it was added to or removed from its class."""
        return self.known_label != (None if self.is_deleted else self.label)


def update_states(database: Database, *, max_images: int | None = None) -> int:
    """Bring the states up to date; return how many changes are left, 0 if none is.

    With `max_images`, no step is begun after the states of so many images were computed. The number of changes left is
    an upper bound.
    """
    num_done = 0
    while True:
        with database.reading() as session:
            left = _num_changes_left(session)
        if left == 0 or (max_images is not None and num_done >= max_images):
            return left
        with database.transaction() as session:
            num_done += _step(session)


def _num_changes_left(session: Session) -> int:
    """Return how many changes the states lack; at least 1 while states are computed again."""
    overview = session.get(TrainingOverview, 1)
    assert overview is not None
    if overview.rule != RULE:
        return max(current_watermark(session), 1)
    return max(current_watermark(session) - overview.watermark, 1 if overview.pending or not overview.totals else 0)


def _step(session: Session) -> int:
    """Apply the next changes, or compute the next images of a pending group again; return the number of images."""
    num_images = 0
    overview = session.get(TrainingOverview, 1, with_for_update=True, populate_existing=True)
    assert overview is not None
    target = current_watermark(session)
    if overview.rule != RULE:
        _begin(session, overview)
    choices = Choices(**overview.choices)  # type: ignore[arg-type] # JSON of the same dataclass
    if overview.pending:
        num_images = _compute_again(session, overview, choices)
    elif overview.watermark < target:
        num_images = _apply_changes(session, overview, choices, target)
    if overview.watermark < target or overview.pending:
        return num_images
    new = make_choices(session)
    overview.pending = groups_between(choices, new)
    overview.choices = new.to_json()
    if not overview.pending:
        overview.totals = sum_of_classes(session)
    return num_images


def _begin(session: Session, overview: TrainingOverview) -> None:
    """Begin from nothing: the tables are empty, or follow another rule and are written again row by row."""
    # Usually right, and corrected at the end: otherwise every image would be computed twice.
    has_roles = all(session.scalar(select(exists().where(ProductImage.role == role))) for role in ROLES)
    overview.watermark, overview.rule, overview.pending = 0, RULE, []
    overview.choices = Choices(has_roles).to_json()


def _apply_changes(session: Session, overview: TrainingOverview, choices: Choices, target: int) -> int:
    firsts = [
        session.scalar(select(func.min(table.change_seq)).where(table.change_seq > overview.watermark))
        for table in (ProductImage, Product)
    ]
    first = min((seq for seq in firsts if seq is not None), default=target)
    last = min(first + CHANGES_PER_STEP - 1, target)
    images = _changed_images(session, ProductImage.change_seq.between(overview.watermark + 1, last))
    products = session.scalars(select(Product.id).where(Product.change_seq.between(overview.watermark + 1, last))).all()
    for part in chunks(products, KEYS_PER_QUERY):
        # Images that have changed too come with their own numbers.
        is_older = ProductImage.change_seq <= overview.watermark
        of_products = _changed_images(session, ProductImage.product_id.in_(part), is_older)
        images += [image for image in of_products if image.has_moved]
    for some in chunks(images, CHANGES_PER_STEP):
        _write_images(session, some, choices)
    overview.watermark = last
    return len(images)


def _changed_images(session: Session, *conditions: ColumnElement[bool]) -> list[_Changed]:
    rows = session.execute(
        select(
            ProductImage.id,
            ProductImage.product_id,
            _LABEL,
            ProductImage.sha256,
            ProductImage.role,
            ProductImage.change_seq,
            _IS_DELETED,
            TrainingImage.label,
        )
        .join(Product, Product.id == ProductImage.product_id)
        .outerjoin(TrainingImage, TrainingImage.image_id == ProductImage.id)
        .where(*conditions)
    )
    return [_Changed(*row) for row in rows]


def _write_images(session: Session, images: Sequence[_Changed], choices: Choices) -> None:
    """Replace the derived rows of images, and everything that depends on them."""
    labels = {image.known_label for image in images if image.known_label is not None}
    digests = {image.sha256 for image in images}
    known = [image.image_id for image in images if image.known_label is not None]
    for part in chunks(known, KEYS_PER_QUERY):
        session.execute(delete(TrainingImage).where(TrainingImage.image_id.in_(part)))
    rows = [_row_of(image, choices) for image in images if not image.is_deleted]
    if rows:
        session.connection().execute(insert(TrainingImage), rows)
    labels.update(str(row["label"]) for row in rows)
    _count(session, labels | _spread(session, digests))


def _row_of(image: _Changed, choices: Choices) -> dict[str, object]:
    # Stripped as `akin train` strips the labels of a file.
    label = image.label.strip() or image.product_id
    drawn = drawn_state(image.role, image.sha256)
    state = own_state(image.image_id, label, drawn, choices)
    return {
        "image_id": image.image_id,
        "label": label,
        "sha256": image.sha256,
        "role": image.role,
        "change_seq": image.change_seq,
        "drawn_state": drawn,
        "own_state": state,
        "state": state,
    }


def _spread(session: Session, digests: Iterable[str]) -> set[str]:
    """Give all images with one of these contents the highest of their states; return the labels of changed images."""
    labels: set[str] = set()
    T = TrainingImage
    for part in chunks(sorted(digests), KEYS_PER_QUERY):
        highest = func.max(T.own_state)
        differing = (
            select(T.sha256, highest)
            .where(T.sha256.in_(part))
            .group_by(T.sha256)
            .having(or_(func.min(T.state) != highest, func.max(T.state) != highest))
        )
        for digest, state in session.execute(differing).all():
            is_other = (T.sha256 == digest) & (T.state != state)
            labels.update(session.scalars(select(T.label).where(is_other).distinct()))
            session.execute(
                update(T).where(is_other).values(state=state), execution_options={"synchronize_session": False}
            )
    return labels


def _count(session: Session, labels: Collection[str]) -> None:
    """Count the images of these classes anew."""
    T = TrainingImage
    for part in chunks(sorted(labels), KEYS_PER_QUERY):
        groups: dict[str, list[tuple[str, int, int, int]]] = {}
        kinds = (T.label, T.role, T.state, T.drawn_state)
        query = select(*kinds, func.count()).where(T.label.in_(part)).group_by(*kinds)
        for label, role, state, drawn, number in session.execute(query):
            groups.setdefault(label, []).append((role, state, drawn, number))
        session.execute(delete(TrainingClass).where(TrainingClass.label.in_(part)))
        if groups:
            session.connection().execute(insert(TrainingClass), [counts_of(*group) for group in groups.items()])


def _compute_again(session: Session, overview: TrainingOverview, choices: Choices) -> int:
    """Compute the states of some images of the first pending group again; return their number."""
    T = TrainingImage
    group, *others = overview.pending
    after = group.get("after", "")
    conditions = [getattr(T, name) == value for name, value in group.items() if name != "after"]
    query = select(T.image_id, T.label, T.sha256, T.drawn_state, T.own_state).where(T.image_id > after, *conditions)
    rows = session.execute(query.order_by(T.image_id).limit(CHANGES_PER_STEP)).all()
    changed: list[dict[str, object]] = []
    labels: set[str] = set()
    digests: set[str] = set()
    for image_id, label, sha256, drawn, before in rows:
        state = own_state(image_id, label, drawn, choices)
        if state != before:
            changed.append({"image_id": image_id, "own_state": state})
            labels.add(label)
            digests.add(sha256)
    if changed:
        session.execute(update(T), changed)
    _count(session, labels | _spread(session, digests))
    overview.pending = [{**group, "after": rows[-1][0]}, *others] if len(rows) == CHANGES_PER_STEP else others
    return len(rows)
