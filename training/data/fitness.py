"""Reasons why data cannot be trained on or measured with: each states its own cause, and a remedy that helps.

Shape legend: N images, C classes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.data.held_out_shares import Images
from training.errors import UnfitData

MIN_TRAIN_CLASSES = 2
# The settings that hold out single images of classes that are trained on.
EXAMPLE_SHARES = ("split.seen_example_share", "split.validation_example_share")
_WITHOUT_A_TEST = (
    'train on everything and measure nothing (split.test = "none", split.validation_share = 0, '
    "split.validation_example_share = 0)"
)


def lacks_classes(images: Images) -> UnfitData | None:
    """Return what the data lack before anything is held out, or None: two classes with two or more images."""
    counts = np.bincount(images.ids, minlength=len(images.classes))
    num_usable = int((counts > 1).sum())
    if len(counts) == 1:
        return UnfitData(
            f"all {counts[0]:,} images are of one class, {images.classes[0]!r}, and training tells classes apart",
            "add images of other classes",
        )
    if num_usable == 0:
        return UnfitData(
            f"each of the {len(counts):,} classes has a single image, and training needs two or more of a class",
            "add a second image to the classes, such as a photo of the same product",
        )
    if num_usable < MIN_TRAIN_CLASSES:
        return UnfitData(
            f"of {len(counts):,} classes only {images.some_names(counts > 1)} has two or more images, and training "
            "needs at least two such classes",
            "add a second image to other classes, such as a photo of the same product",
        )
    return None


def lacks_training_classes(
    images: Images, train: NDArray[np.int64], whole: Mapping[str, NDArray[np.bool_]], advice: Mapping[str, str]
) -> UnfitData | None:
    """Return why too few classes are left to train on, or None.

    `whole` has the classes [C] that are held out as a whole, by part; `advice` what else helps, by the setting that
    it is about.
    """
    counts = np.bincount(images.ids, minlength=len(images.classes))
    left = np.bincount(images.ids[train], minlength=len(counts))
    num_left = int((left > 1).sum())
    if num_left >= MIN_TRAIN_CLASSES:
        return None
    if (reason := lacks_classes(images)) is not None:
        return reason
    is_usable = counts > 1
    is_whole = np.zeros(len(counts), np.bool_)
    taken = []
    for part, classes in whole.items():
        if number := int((classes & is_usable).sum()):
            taken.append(f"{number:,} held out for the {part}")
        is_whole |= classes
    is_thinned = is_usable & ~is_whole & (left < 2)
    if is_thinned.any():
        taken.append(f"{int(is_thinned.sum()):,} with fewer than two images besides held-out ones and their copies")
        remedy = "add images to the classes, or classes with two or more images"
    else:
        remedy = "add classes with two or more images"
        advice = {name: text for name, text in advice.items() if name not in EXAMPLE_SHARES}
    return UnfitData(
        f"{int(is_usable.sum()):,} classes have two or more images, and {num_left} of them {_is_left(num_left)} to "
        f"train on, where at least {MIN_TRAIN_CLASSES} are needed: {', '.join(taken)}",
        remedy,
        advice if "split.test" in advice else {**advice, "split.test": _WITHOUT_A_TEST},
    )


def nothing_to_find(
    images: Images, query: NDArray[np.int64], gallery: NDArray[np.int64] | None, what: str
) -> UnfitData:
    """Return why none of the queries of a part has another image of its class to find."""
    counts = np.bincount(images.ids, minlength=len(images.classes))
    if not (counts > 1).any():
        return UnfitData(
            f"each of the {len(counts):,} classes has a single image, so no search can find another image of its class",
            "add a second image to the classes, such as a photo of the same product",
        )
    named = images.some_names(np.bincount(images.ids[query], minlength=len(counts)) > 0)
    where = "another image" if gallery is None else "a catalogue image"
    return UnfitData(
        f"none of the {len(query):,} {what} images has {where} of its class to find (their classes: {named})",
        f"add {where} to these classes",
    )


def _is_left(number: int) -> str:
    return "is left" if number == 1 else "are left"
