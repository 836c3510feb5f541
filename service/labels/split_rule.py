"""The rule of training's splits as questions to the derived tables: which images does a training run hold out?

`training.data.splits.held_out_masks` answers for a whole catalogue in memory. Here a state follows from the hash of
the label, the hash of the content, and a few choices that depend on all images: whether both roles occur, and what is
held out instead where no class or example falls into a share by its hash. These choices are found through counts by
class; they differ from "none" only where classes or examples are few.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple, get_args

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.storage.tables.catalogue import CATALOGUE, EXAMPLE
from service.storage.tables.training import TrainingClass, TrainingImage
from training.data.held_out_shares import share_of
from training.data.label_states import LabelState
from training.data.splits import SplitConfig

# The names of the states by their numbers.
STATES: tuple[LabelState, ...] = get_args(LabelState)
TRAIN, VALIDATION, TEST = range(3)

_SHARES = SplitConfig()
# Change the number whenever states of the same images change.
RULE = f"1, {_SHARES!r}"[:200]

_TEST_CLASS, _VALIDATION_CLASS = "unseen class", "validation class"
_TEST_EXAMPLE, _VALIDATION_EXAMPLE = "test example", "validation example"
Condition = ColumnElement[bool]
C = TrainingClass


@dataclass(frozen=True, slots=True)
class Choices:
    """What the states of images depend on beyond their labels and contents."""

    has_roles: bool = False  # whether there are both catalogue images and examples
    test_class: str | None = None  # held out although its hash is not below the share
    test_example: str | None = None  # the id of an image
    validation_class: str | None = None
    validation_example: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the choices as JSON values."""
        return asdict(self)


class _Example(NamedTuple):
    """An example that is held out because no other one is by its hash."""

    image_id: str
    label: str
    drawn_state: int


@lru_cache(maxsize=4096)
def class_hashes(label: str) -> tuple[float, float]:
    """Return the hashes of a label that decide about test and validation."""
    return share_of(_TEST_CLASS, label), share_of(_VALIDATION_CLASS, label)


def drawn_state(role: str, sha256: str) -> int:
    """Return the state of an image by the hash of its content alone; only examples are drawn."""
    if role != EXAMPLE:
        return TRAIN
    if share_of(_TEST_EXAMPLE, sha256) < _SHARES.seen_example_share:
        return TEST
    return VALIDATION if share_of(_VALIDATION_EXAMPLE, sha256) < _SHARES.validation_example_share else TRAIN


def own_state(image_id: str, label: str, drawn: int, choices: Choices) -> int:
    """Return the state of an image by its class and its content, regardless of other images with this content."""
    test_hash, validation_hash = class_hashes(label)
    drawn = drawn if choices.has_roles else TRAIN
    if test_hash < _SHARES.unseen_share or label == choices.test_class:
        return TEST
    if drawn == TEST or image_id == choices.test_example:
        return TEST
    if validation_hash < _SHARES.validation_share or label == choices.validation_class:
        return VALIDATION
    return VALIDATION if image_id == choices.validation_example else drawn


def make_choices(session: Session) -> Choices:
    """Find the choices that a training run would make now, from the counts by class."""
    has_roles = all(_exists(session, column > 0) for column in (C.num_catalogue, C.num_examples))
    test_class = _missing_class(session, true(), C.test_hash, _SHARES.unseen_share, _queries(has_roles), has_roles)
    seen = and_(C.test_hash >= _SHARES.unseen_share, _is_not(test_class))
    test_example: _Example | None = None
    if has_roles and not _exists(session, seen, C.num_drawn_test > 0):
        test_example = _first_example(session, seen, _TEST_EXAMPLE, None)
    taken = _taken(test_example)
    drawn = C.num_drawn_test if has_roles else literal(0)
    in_pool = and_(seen, C.num_catalogue + C.num_examples - drawn - taken > 0)
    queries = _queries(has_roles) - drawn - taken
    validation_class = _missing_class(session, in_pool, C.validation_hash, _SHARES.validation_share, queries, has_roles)
    rest = and_(in_pool, C.validation_hash >= _SHARES.validation_share, _is_not(validation_class))
    validation_example: _Example | None = None
    if has_roles:
        num_taken = taken if test_example is not None and test_example.drawn_state == VALIDATION else literal(0)
        if not _exists(session, rest, C.num_drawn_validation - num_taken > 0):
            validation_example = _first_example(session, rest, _VALIDATION_EXAMPLE, test_example)
    return Choices(
        has_roles,
        test_class,
        test_example.image_id if test_example else None,
        validation_class,
        validation_example.image_id if validation_example else None,
    )


def groups_between(old: Choices, new: Choices) -> list[dict[str, str]]:
    """Return the groups of images, by columns of `TrainingImage`, whose states differ between two choices.

    An empty group stands for all images.
    """
    if old.has_roles != new.has_roles:
        return [{}]
    groups: list[dict[str, str]] = []
    for column, before, after in (
        ("label", old.test_class, new.test_class),
        ("image_id", old.test_example, new.test_example),
        ("label", old.validation_class, new.validation_class),
        ("image_id", old.validation_example, new.validation_example),
    ):
        if before != after:
            groups += [{column: value} for value in (before, after) if value is not None]
    return groups


def sum_of_classes(session: Session) -> dict[str, int]:
    """Return the sums of the counts of all classes, and their number."""
    names = ("num_catalogue", "num_examples", "num_train", "num_validation", "num_test")
    sums = session.execute(select(func.count(), *(func.coalesce(func.sum(getattr(C, name)), 0) for name in names)))
    return dict(zip(("num_classes", *names), map(int, sums.one()), strict=True))


def counts_of(label: str, groups: Sequence[tuple[str, int, int, int]]) -> dict[str, object]:
    """Return the row of a class, from (role, state, drawn state, number) of its images."""
    test_hash, validation_hash = class_hashes(label)

    def total(position: int, value: object) -> int:
        return sum(group[3] for group in groups if group[position] == value)

    return {
        "label": label,
        "test_hash": test_hash,
        "validation_hash": validation_hash,
        "num_catalogue": total(0, CATALOGUE),
        "num_examples": total(0, EXAMPLE),
        **{f"num_{name}": total(1, number) for number, name in enumerate(STATES)},
        "num_drawn_test": total(2, TEST),
        "num_drawn_validation": total(2, VALIDATION),
    }


def _queries(has_roles: bool) -> ColumnElement[int]:
    """Return the number of images of a class that may be queries."""
    return C.num_examples + 0 if has_roles else C.num_catalogue + C.num_examples


def _missing_class(
    session: Session,
    among: Condition,
    column: InstrumentedAttribute[float],
    share: float,
    queries: ColumnElement[int],
    has_roles: bool,
) -> str | None:
    """Return the class to hold out if none of the classes `among` is by its hash; None if one is, or there is none."""
    if _exists(session, among, column < share):
        return None
    for condition in (queries >= (1 if has_roles else 2), true()):
        query = select(C.label).where(among, condition).order_by(column, C.label).limit(1)
        label = session.scalar(query)
        if label is not None:
            return label
    return None


def _first_example(session: Session, among: Condition, kind: str, but: _Example | None) -> _Example | None:
    """Return the example with the smallest hash in the classes `among` that is not drawn for the test, except `but`."""
    if not _exists(session, among, C.num_examples - C.num_drawn_test - _taken(but) > 0):
        return None
    candidates = session.execute(
        select(TrainingImage.image_id, TrainingImage.label, TrainingImage.drawn_state, TrainingImage.sha256)
        .join(TrainingClass, C.label == TrainingImage.label)
        .where(among, TrainingImage.role == EXAMPLE, TrainingImage.drawn_state != TEST)
    )
    # The order of a snapshot decides between equal hashes.
    _, best = min(
        ((share_of(kind, sha256), label, image_id), _Example(image_id, label, drawn))
        for image_id, label, drawn, sha256 in candidates
        if but is None or image_id != but.image_id
    )
    return best


def _taken(example: _Example | None) -> ColumnElement[int]:
    """Return the number of images of a class that a held-out example takes from it."""
    return literal(0) if example is None else case((C.label == example.label, 1), else_=0)


def _is_not(label: str | None) -> Condition:
    return true() if label is None else C.label != label


def _exists(session: Session, *conditions: Condition) -> bool:
    return bool(session.scalar(select(exists().where(*conditions))))
