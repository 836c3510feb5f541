"""Checks of the data before training; each finding names rows and a remedy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.image_cache import ImageCache
from training.data.near_duplicates import near_duplicate_pairs, thumbnails_of
from training.data.snapshot import Progress, Snapshot, SnapshotImage, class_ids
from training.data.splits import Split, held_out_images

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """A defect of the data: a problem distorts training or evaluation, a warning may do so."""

    severity: Literal["problem", "warning"]
    message: str
    rows: tuple[str, ...]  # the locations of all rows; the message names the first few


@dataclass(frozen=True, slots=True)
class DataChecks:
    """Findings, and the images to exclude as sorted positions in the snapshot."""

    findings: tuple[Finding, ...]
    exclude: NDArray[np.int64]  # images not to train on: unreadable, or near-duplicates of held-out ones
    unreadable: NDArray[np.int64]  # images that cannot be used at all


def check_training_data(
    snapshot: Snapshot, split: Split, cache: ImageCache, on_progress: Progress | None = None
) -> DataChecks:
    """Find unreadable images, classes of one image, duplicates across the split, and images with two labels.

    Pass the images to exclude to `splits.leave_out`. Takes a few seconds for 10,000 images; `on_progress` receives
    (images compared, all images).
    """
    images = snapshot.images
    if len(cache) != len(images):
        raise ValueError(f"the cache holds {len(cache)} images and the snapshot {len(images)}")
    ids, content = class_ids(snapshot.labels), class_ids([image.sha256 for image in images])
    is_held_out = held_out_images(snapshot, split)
    # One image of each content: files with equal bytes have findings of their own, and thousands of products that show
    # the same placeholder would be millions of pairs.
    distinct = np.sort(np.unique(content, return_index=True)[1])
    pairs = distinct[near_duplicate_pairs(thumbnails_of(cache).of(distinct), on_progress)]
    unreadable = np.array(sorted(cache.failures), np.int64)
    in_training = np.zeros(len(images), np.bool_)
    in_training[split.train] = True
    same = ~is_held_out & np.isin(content, content[is_held_out])
    near = _partners(content[pairs], content, is_held_out, in_training)
    findings = [
        *_left_out_rows(snapshot),
        *_unreadable(images, cache.failures),
        *_single_images(images, ids),
        *_same_file_across(images, same),
        *_near_duplicates_across(images, near),
        *_same_file_under_labels(images, ids, content),
        *_near_duplicates_under_labels(images, ids, content, pairs),
    ]
    exclude = np.flatnonzero(in_training & same)
    exclude = np.unique(np.concatenate([exclude, near, unreadable]))
    return DataChecks(tuple(findings), exclude, unreadable)


def _partners(
    content_pairs: NDArray[np.int64],
    content: NDArray[np.int64],
    is_held_out: NDArray[np.bool_],
    in_training: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return the training images whose content is paired with that of a held-out image."""
    both_ways = np.concatenate([content_pairs, content_pairs[:, ::-1]])
    is_held_out_content = np.isin(both_ways[:, 1], content[is_held_out])
    return np.flatnonzero(in_training & np.isin(content, both_ways[is_held_out_content, 0]))


def _left_out_rows(snapshot: Snapshot) -> Iterable[Finding]:
    if snapshot.problems:
        shown = "; ".join(f"{problem.location}: {problem.message}" for problem in snapshot.problems[:_MAX_NAMED])
        rows = tuple(problem.location for problem in snapshot.problems)
        yield Finding(
            "problem", f"rows that could not be read and are left out: {len(rows):,} ({_cut(shown, rows)})", rows
        )


def _unreadable(images: Sequence[SnapshotImage], failures: dict[int, str]) -> Iterable[Finding]:
    if failures:
        numbers = sorted(failures)
        shown = "; ".join(f"{images[number].location}: {failures[number]}" for number in numbers[:_MAX_NAMED])
        rows = _locations(images, numbers)
        yield Finding(
            "problem",
            f"images that cannot be decoded and are left out: {len(rows):,} ({_cut(shown, rows)}); "
            "replace them or remove their rows",
            rows,
        )


def _single_images(images: Sequence[SnapshotImage], ids: NDArray[np.int64]) -> Iterable[Finding]:
    single = np.flatnonzero(np.bincount(ids)[ids] == 1)
    if len(single):
        yield _finding(
            "warning",
            images,
            single,
            "classes with a single image, which cannot be trained on",
            "add a second image of each",
        )


def _same_file_across(images: Sequence[SnapshotImage], same: NDArray[np.bool_]) -> Iterable[Finding]:
    if same.any():
        yield _finding(
            "problem",
            images,
            np.flatnonzero(same),
            "images with the same files as held-out images, excluded from training",
            "remove one of each",
        )


def _near_duplicates_across(images: Sequence[SnapshotImage], near: NDArray[np.int64]) -> Iterable[Finding]:
    if len(near):
        yield _finding(
            "warning",
            images,
            near,
            "near-duplicates of held-out images, excluded from training",
            "remove one of each, so that metrics are not too high",
        )


def _same_file_under_labels(
    images: Sequence[SnapshotImage], ids: NDArray[np.int64], content: NDArray[np.int64]
) -> Iterable[Finding]:
    # Each (file, label) once; a file that still occurs twice has two labels.
    distinct = np.unique(np.stack([content, ids], axis=1), axis=0)
    num_labels = np.bincount(distinct[:, 0])
    rows = np.flatnonzero(num_labels[content] > 1)
    if len(rows):
        by_file = rows[np.argsort(content[rows], kind="stable")]
        yield _finding(
            "problem",
            images,
            by_file,
            "images whose file also has another label",
            "keep the right label of each",
            with_labels=True,
        )


def _near_duplicates_under_labels(
    images: Sequence[SnapshotImage], ids: NDArray[np.int64], content: NDArray[np.int64], pairs: NDArray[np.int64]
) -> Iterable[Finding]:
    # The images of content c are by_content[starts[c] : starts[c + 1]].
    by_content = np.argsort(content, kind="stable")
    starts = np.searchsorted(content[by_content], np.arange(content.max(initial=-1) + 2))
    rows: dict[int, None] = {}
    for pair in content[pairs].tolist():
        first, second = (by_content[starts[c] : starts[c + 1]] for c in pair)
        for members, others in ((first, second), (second, first)):
            labels = set(ids[others].tolist())
            rows |= dict.fromkeys(row for row in members.tolist() if labels != {ids[row]})
    if rows:
        yield _finding(
            "warning",
            images,
            np.fromiter(rows, np.int64),
            "near-duplicates of images with another label",
            "check whether one class has two labels",
            with_labels=True,
        )


def _finding(
    severity: Literal["problem", "warning"],
    images: Sequence[SnapshotImage],
    numbers: NDArray[np.int64],
    what: str,
    remedy: str,
    *,
    with_labels: bool = False,
) -> Finding:
    rows = _locations(images, numbers.tolist())
    first = [images[number] for number in numbers[:_MAX_NAMED].tolist()]
    shown = ", ".join(f"{image.location} = {image.label!r}" if with_labels else image.location for image in first)
    return Finding(severity, f"{what}: {len(rows):,} ({_cut(shown, rows)}); {remedy}", rows)


def _locations(images: Sequence[SnapshotImage], numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(images[number].location for number in numbers)


def _cut(shown: str, rows: tuple[str, ...]) -> str:
    return shown if len(rows) <= _MAX_NAMED else f"{shown}, ..."
