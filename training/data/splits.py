"""Splits: the images held out from training for the test and for the choice of models.

Whole classes are held out by a hash of their label, and examples of the other classes by a hash of their content.
Whether an image is held out does not depend on the rest of the data, so added images never move others into training.
Parts stated by the data set are used instead. Validation is chosen in the same way with separate salts.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training.data.fitness import EXAMPLE_SHARES, MIN_TRAIN_CLASSES, lacks_training_classes, nothing_to_find
from training.data.held_out_shares import Images
from training.data.snapshot import Snapshot
from training.errors import InvalidConfig, UnfitData

TestPart = Literal["auto", "stated", "hash", "none"]
_SHARES = ("unseen_share", "seen_example_share", "validation_share", "validation_example_share")


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """What is held out for the test and for validation.

    `test` is "stated" for the parts stated by the data set, "hash" for the shares below regardless of stated parts,
    "auto" for stated parts if there is a test part and shares otherwise, and "none" for no test (images stated as test
    are still excluded from training). `unseen_classes` names the unseen classes, replacing `unseen_share`. If both
    validation shares are 0, there is no validation.
    """

    test: TestPart = "auto"
    unseen_share: float = 0.2
    unseen_classes: tuple[str, ...] = ()
    seen_example_share: float = 0.2
    validation_share: float = 0.15
    validation_example_share: float = 0.1

    def __post_init__(self) -> None:
        if self.test not in get_args(TestPart):
            raise InvalidConfig(f"split.test must be one of {', '.join(get_args(TestPart))}, got {self.test!r}")
        for name in _SHARES:
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
                raise InvalidConfig(f"split.{name} must be a number from 0 to below 1, got {share!r}")
        classes = self.unseen_classes
        if not isinstance(classes, tuple) or not all(isinstance(name, str) and name for name in classes):
            raise InvalidConfig(f"split.unseen_classes must be a list of labels, got {classes!r}")
        if len(set(classes)) != len(classes):
            raise InvalidConfig(f"split.unseen_classes names a class twice: {classes!r}")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries and gallery, as indices into the snapshot's images."""

    query: NDArray[np.int64]
    gallery: (
        NDArray[np.int64] | None
    )  # None: the queries are searched among themselves, each excluded from its own answer
    is_unseen: NDArray[np.bool_]  # [Q] whether the query's class is not trained on


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into the snapshot's images. No image of an unseen or validation class is in `train`."""

    train: NDArray[np.int64]
    validation: HeldOut | None
    test: HeldOut | None
    notes: tuple[str, ...] = ()
    unseen_classes: tuple[str, ...] = ()
    validation_classes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """Masks over the images [N] and the classes [C] of an unfinished split."""

    pool: NDArray[np.bool_]  # images still available for training
    test_query: NDArray[np.bool_]
    validation_query: NDArray[np.bool_]
    unseen: NDArray[np.bool_]  # [C]
    validation: NDArray[np.bool_]  # [C]
    notes: list[str]


def split_snapshot(snapshot: Snapshot, config: SplitConfig, *, is_for_training: bool = True) -> Split:
    """Split the images of a snapshot; raises UnfitData if a part cannot be trained on or evaluated.

    If it is not for training, too few classes to train on are accepted.
    """
    images = Images(snapshot)
    draft = _hold_out_test(images, config)
    _hold_out_validation(images, config, draft)
    _leave_out_duplicates(images, draft)
    split = Split(
        train=np.flatnonzero(draft.pool),
        validation=_held_out(images, draft.validation_query, draft.validation),
        test=_held_out(images, draft.test_query, draft.unseen),
        notes=tuple(draft.notes),
        unseen_classes=images.names_of(draft.unseen),
        validation_classes=images.names_of(draft.validation),
    )
    if is_for_training:
        whole = {"test": draft.unseen, "validation": draft.validation & ~draft.unseen}
        reason = lacks_training_classes(images, split.train, whole, _advice(images, config, draft))
        if reason is not None:
            raise reason
        _check_measurable(images, split, config)
    return _without_single_images(images, split)


def _advice(images: Images, config: SplitConfig, draft: _Draft) -> dict[str, str]:
    """Return what else helps if too few classes are left to train on, by setting."""
    advice = {}
    is_stated = config.test in ("auto", "stated") and images.is_part("test").any()
    if config.unseen_classes:
        advice["split.unseen_classes"] = "name fewer classes in split.unseen_classes"
    elif is_stated:
        advice["split.test"] = 'state fewer images as test, or choose the test by hash (split.test = "hash")'
    # A single class is the least that a part can have: a lower share would hold out as many.
    elif draft.unseen.sum() > 1:
        advice["split.unseen_share"] = f"lower split.unseen_share ({config.unseen_share:g})"
    if draft.validation.sum() > 1:
        advice["split.validation_share"] = f"lower split.validation_share ({config.validation_share:g})"
    for name in EXAMPLE_SHARES if images.has_roles else ():
        share = getattr(config, name.removeprefix("split."))
        if share:
            advice[name] = f"lower {name} ({share:g})"
    return advice


def leave_out(
    snapshot: Snapshot, split: Split, *, from_training: NDArray[np.int64], everywhere: NDArray[np.int64]
) -> Split:
    """Return the split without near-duplicates of held-out images in training, and without unreadable images.

    Raises UnfitData if too few images are left.
    """
    images = Images(snapshot)

    def kept(held_out: HeldOut | None, what: str) -> HeldOut | None:
        if held_out is None:
            return None
        is_kept = ~np.isin(held_out.query, everywhere)
        if not is_kept.any():
            raise UnfitData(f"no {what} image can be read; replace them, or change the shares of the split")
        gallery = held_out.gallery
        if gallery is not None:
            gallery = gallery[~np.isin(gallery, everywhere)]
        return HeldOut(held_out.query[is_kept], gallery, held_out.is_unseen[is_kept])

    left = dataclasses.replace(
        split,
        train=split.train[~np.isin(split.train, np.concatenate([from_training, everywhere]))],
        validation=kept(split.validation, "validation"),
        test=kept(split.test, "test"),
    )
    if (np.bincount(images.ids[left.train], minlength=1) > 1).sum() < MIN_TRAIN_CLASSES:
        num_excluded = len(split.train) - len(left.train)
        raise UnfitData(
            f"too few classes with two or more images are left to train on: {num_excluded:,} of {len(split.train):,} "
            "images cannot be decoded, or are near-duplicates of held-out images",
            "replace unreadable images, remove copies of the same image, or add classes with two or more images",
        )
    return _without_single_images(images, left)


def held_out_images(snapshot: Snapshot, split: Split) -> NDArray[np.bool_]:
    """Mark [N] the queries of both parts and every image of an unseen or validation class."""
    images = Images(snapshot)
    mask = images.in_classes(images.mask_of({*split.unseen_classes, *split.validation_classes}))
    for part in (split.validation, split.test):
        if part is not None:
            mask[part.query] = True
    return mask


def is_held_out_by_hash(snapshot: Snapshot, config: SplitConfig) -> bool:
    """Tell whether the parts are chosen by hash alone, and not stated by the data set, whose protocol applies then."""
    return config.test == "hash" or not any(image.part in ("test", "validation") for image in snapshot.images)


@dataclass(frozen=True, slots=True)
class HeldOutMasks:
    """The images [N] of the test and of validation, which are disjoint."""

    is_test: NDArray[np.bool_]
    is_validation: NDArray[np.bool_]


def held_out_masks(snapshot: Snapshot, config: SplitConfig) -> HeldOutMasks:
    """Return which images a split holds out, without requiring enough images to train on or evaluate.

    All images of held-out classes are included, and images with the same file as a held-out image.
    """
    if not snapshot.images:
        return HeldOutMasks(np.zeros(0, np.bool_), np.zeros(0, np.bool_))
    images = Images(snapshot)
    draft = _hold_out_test(images, config)
    # Images stated as test are never trained on, even if they are not used as the test.
    is_test = draft.test_query | images.in_classes(draft.unseen) | (images.is_part("test") & ~draft.pool)
    _hold_out_validation(images, config, draft)
    is_validation = draft.validation_query | images.in_classes(draft.validation)
    is_validation |= images.is_part("validation") & ~draft.pool
    is_test |= images.same_content_as(is_test)
    is_validation |= images.same_content_as(is_validation)
    return HeldOutMasks(is_test, is_validation & ~is_test)


def _hold_out_test(images: Images, config: SplitConfig) -> _Draft:
    nothing = np.zeros(len(images), np.bool_)
    draft = _Draft(~nothing, nothing, nothing, images.mask_of(()), images.mask_of(()), [])
    is_test = images.is_part("test")
    by = config.test
    if by == "auto":
        by = "stated" if is_test.any() else "hash"
        if by == "hash" and images.is_part("train").any():
            draft.notes.append("the data set states no test images; they are chosen by the hash shares instead")
    if by == "stated":
        if not is_test.any():
            raise UnfitData('the data set states no test images; use split.test = "hash" or "auto"')
        _hold_out_stated(images, config, draft)
    elif by == "hash":
        draft.unseen = _unseen_classes(images, config, ~nothing, draft)
        in_unseen = images.in_classes(draft.unseen)
        draft.test_query = in_unseen & images.can_query
        draft.test_query |= images.examples_by_hash("test example", config.seen_example_share, ~in_unseen, draft.notes)
        draft.pool = ~in_unseen & ~draft.test_query
    else:
        draft.unseen = images.mask_of(config.unseen_classes)
        draft.pool = ~images.in_classes(draft.unseen) & ~is_test
    return draft


def _hold_out_stated(images: Images, config: SplitConfig, draft: _Draft) -> None:
    is_test = images.is_part("test")
    test_classes = images.classes_of(is_test)
    train_classes = images.classes_of(images.is_trainable | images.is_part("validation"))
    if not (test_classes & train_classes).any():
        if config.unseen_classes:
            raise UnfitData(
                'the data set states which classes are unseen; leave split.unseen_classes empty, or use test = "hash"'
            )
        draft.unseen = test_classes
    else:
        draft.unseen = _unseen_classes(images, config, is_test, draft) | (test_classes & ~train_classes)
    draft.test_query = is_test & images.can_query
    draft.pool = ~images.in_classes(draft.unseen) & ~is_test


def _unseen_classes(images: Images, config: SplitConfig, among: NDArray[np.bool_], draft: _Draft) -> NDArray[np.bool_]:
    """Return the named classes [C], or else a share of the classes of the images `among` [N]."""
    if config.unseen_classes:
        return images.mask_of(config.unseen_classes)
    return images.classes_by_hash("unseen class", config.unseen_share, among, draft.notes)


def _hold_out_validation(images: Images, config: SplitConfig, draft: _Draft) -> None:
    """Take the validation from the images that are not in the test; images stated as validation never train."""
    by_hash = config.test == "hash"
    stated = draft.pool & images.is_part("validation") & (not by_hash)
    draft.pool &= ~stated
    if config.validation_share == 0 and config.validation_example_share == 0:
        return
    stated_classes = images.classes_of(stated)
    if stated.any() and not (stated_classes & images.classes_of(draft.pool & images.is_trainable)).any():
        draft.validation = stated_classes
    else:
        draft.validation = images.classes_by_hash("validation class", config.validation_share, draft.pool, draft.notes)
    in_validation = images.in_classes(draft.validation)
    if stated.any():
        # All images of the validation classes, since none of them is trained on and the stated ones are few.
        draft.validation_query = (stated | (draft.pool & in_validation)) & images.can_query
    else:
        draft.validation_query = draft.pool & in_validation & images.can_query
        draft.validation_query |= images.examples_by_hash(
            "validation example", config.validation_example_share, draft.pool & ~in_validation, draft.notes
        )
    draft.pool &= ~in_validation & ~draft.validation_query


def _leave_out_duplicates(images: Images, draft: _Draft) -> None:
    in_test = draft.test_query | images.in_classes(draft.unseen)
    is_repeated = draft.validation_query & images.same_content_as(in_test)
    if is_repeated.any() and (draft.validation_query & ~is_repeated).any():
        draft.validation_query = draft.validation_query & ~is_repeated
        draft.notes.append(f"validation images with the same file as a test image, excluded: {is_repeated.sum():,}")
    in_validation = draft.validation_query | images.in_classes(draft.validation)
    is_repeated = draft.pool & images.same_content_as(in_test | in_validation)
    if is_repeated.any():
        draft.pool = draft.pool & ~is_repeated
        draft.notes.append(
            f"images with the same file as a held-out image, excluded from training: {is_repeated.sum():,}"
        )


def _held_out(images: Images, query: NDArray[np.bool_], classes: NDArray[np.bool_]) -> HeldOut | None:
    gallery = np.flatnonzero(~images.is_example) if images.has_roles else None
    if not query.any() and gallery is not None:
        # Without examples in the held-out classes, their catalogue images are searched among themselves.
        query, gallery = images.in_classes(classes), None
    if not query.any():
        return None
    return HeldOut(np.flatnonzero(query), gallery, np.zeros(query.sum(), np.bool_))


def _check_measurable(images: Images, split: Split, config: SplitConfig) -> None:
    """Raise UnfitData if a requested part is empty or none of its queries has a relevant image."""
    shares_of = {"test": ("unseen_share", "seen_example_share")}
    shares_of["validation"] = ("validation_share", "validation_example_share")
    for what, names in shares_of.items():
        held_out = split.test if what == "test" else split.validation
        off = 'test = "none"' if what == "test" else "both shares of 0"
        is_asked = config.test != "none" if what == "test" else any(getattr(config, name) for name in names)
        shares = " or ".join(f"{name} ({getattr(config, name)})" for name in names)
        advice = {f"split.{what}": f"raise split.{shares}, or disable it with {off}"}
        if held_out is None and is_asked:
            raise UnfitData(f"the {what} part is empty", "", advice)
        if held_out is not None and not images.any_relevant(held_out.query, held_out.gallery):
            reason = nothing_to_find(images, held_out.query, held_out.gallery, what)
            raise UnfitData(reason.cause, reason.remedy, advice)


def _without_single_images(images: Images, split: Split) -> Split:
    """Remove classes with one image from training, and mark the queries whose class is not trained on."""
    counts = np.bincount(images.ids[split.train], minlength=len(images.classes))
    train = split.train[counts[images.ids[split.train]] > 1]
    notes = split.notes
    if (counts == 1).any():
        named = images.some_names(counts == 1)
        notes += (f"classes with one image to train on, left out of training: {(counts == 1).sum():,} ({named})",)
    is_trained = counts > 1

    def marked(held_out: HeldOut | None) -> HeldOut | None:
        if held_out is None:
            return None
        return dataclasses.replace(held_out, is_unseen=~is_trained[images.ids[held_out.query]])

    return dataclasses.replace(
        split, train=train, validation=marked(split.validation), test=marked(split.test), notes=notes
    )
