"""Snapshots: the data of a training run, identified by a hash of their content, so that the run can be repeated.

A snapshot is taken by hashing the files of a data set. It is used in place, or written as an artifact:

    images/ab/<sha256>.jpg   each distinct image once
    rows.ndjson              sha256, file, label, role, part and location of each row
    manifest.json            checksums, and the facts of the snapshot

Rows are ordered by their content. Equal hashes therefore mean equal rows in the same order, whatever the locations of
the files, and an index into `Snapshot.images` is the same image in every run over the same content.
"""

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from embedding.artifact import MANIFEST_NAME, canonical_json, new_artifact, sha256_of_file, verify_artifact
from embedding.errors import InvalidArtifact
from training.datasets.files import IMAGE_ENDINGS, printable
from training.datasets.folders import Layout
from training.datasets.reading import read_dataset
from training.datasets.rows import Dataset, LabelledImage, Part, Role, RowError
from training.errors import InvalidDataset, InvalidSnapshot, TrainingError

KIND = "akin-snapshot/1"
ROWS_NAME = "rows.ndjson"
# Reading waits for the disk, and hashing releases the GIL.
_NUM_THREADS = 8
_CHUNK = 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SnapshotImage:
    """One labelled image, with the hash of its file's bytes."""

    location: str  # for messages: the row's location when the snapshot was taken
    path: Path
    label: str
    role: Role
    part: Part
    sha256: str

    @property
    def content(self) -> tuple[str, str, str, str]:
        """The row without its location: the key of the snapshot's order and hash."""
        return (self.label, self.role, self.part, self.sha256)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Labelled images in the order of their content."""

    layout: str
    images: tuple[SnapshotImage, ...]
    snapshot_hash: str
    problems: tuple[RowError, ...] = ()  # skipped rows, and why
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The label of each image."""
        return [image.label for image in self.images]

    @property
    def has_roles(self) -> bool:
        """Whether there are both catalogue images and examples."""
        return len({image.role for image in self.images}) > 1


def class_ids(labels: Sequence[str]) -> NDArray[np.int64]:
    """Number the labels: int64 [N], the index of each label among the sorted distinct labels."""
    numbers = {label: number for number, label in enumerate(sorted(set(labels)))}
    return np.fromiter((numbers[label] for label in labels), np.int64, len(labels))


def open_training_data(path: Path, on_progress: Progress | None = None, *, layout: Layout = "auto") -> Snapshot:
    """Open a written snapshot, or take a snapshot of a data set in any supported layout.

    `on_progress` receives (files hashed, all files). Raises InvalidDataset.
    """
    if is_snapshot(path):
        return read_snapshot(path)
    return take_snapshot(read_dataset(path, layout=layout), on_progress)


def take_snapshot(dataset: Dataset, on_progress: Progress | None = None) -> Snapshot:
    """Hash the files of a data set; rows with an unreadable file become problems.

    `on_progress` receives (files hashed, all files), in the caller's thread. Raises InvalidDataset if no file can be
    read.
    """
    images: list[SnapshotImage] = []
    problems = list(dataset.errors)
    paths = list(dict.fromkeys(image.path for image in dataset.images))
    digests: dict[Path, str | OSError] = {}
    for path, digest in _digests(paths):
        digests[path] = digest
        if on_progress is not None:
            on_progress(len(digests), len(paths))
    for row in dataset.images:
        digest = digests[row.path]
        if isinstance(digest, OSError):
            problems.append(RowError(row.location, _unreadable(row, digest)))
        else:
            images.append(SnapshotImage(row.location, row.path, row.label, row.role, row.part, digest))
    if not images:
        why = f"; {problems[0].location}: {problems[0].message}" if problems else ""
        raise InvalidDataset(f"none of the {len(dataset.images):,} images can be read{why}")
    notes = (f"read as {dataset.understood}", *dataset.notes) if dataset.understood else dataset.notes
    return snapshot_of(dataset.layout, images, problems=problems, notes=notes)


def snapshot_of(
    layout: str,
    images: Iterable[SnapshotImage],
    *,
    problems: Iterable[RowError] = (),
    notes: Iterable[str] = (),
) -> Snapshot:
    """Create a snapshot of rows in any order whose files are already hashed; reads no files.

    It equals a snapshot taken of the same images. Raises ValueError for an invalid hash.
    """
    rows = list(images)
    for image in rows:
        if not _SHA256.fullmatch(image.sha256):
            raise ValueError(f"{image.location}: {image.sha256!r} is not a SHA-256 in lower-case hex")
    return _snapshot(layout, rows, tuple(problems), tuple(notes))


def write_snapshot(snapshot: Snapshot, directory: Path, on_progress: Progress | None = None) -> None:
    """Copy the images and rows of a snapshot to the new folder `directory`, completely or not at all.

    `on_progress` receives (rows copied, all rows). Raises InvalidSnapshot if the folder exists or an image has
    changed, and TrainingError if the disk is full.
    """
    facts: dict[str, object] = {
        "layout": snapshot.layout,
        "snapshot_hash": snapshot.snapshot_hash,
        "num_images": len(snapshot.images),
        "num_classes": len(set(snapshot.labels)),
        "problems": [[problem.location, problem.message] for problem in snapshot.problems],
        "notes": list(snapshot.notes),
    }
    try:
        with new_artifact(directory, KIND, facts) as draft:
            names = _copy_images(snapshot.images, draft.path, on_progress)
            rows = (json.dumps(_row_json(image, names)) for image in snapshot.images)
            (draft.path / ROWS_NAME).write_text("".join(f"{row}\n" for row in rows), encoding="ascii")
    except FileExistsError:
        raise InvalidSnapshot(f"{directory} exists; a snapshot is never changed, so name a new folder") from None
    except OSError as error:
        remedy = "free some space or name another disk" if error.errno == errno.ENOSPC else "check the folder"
        raise TrainingError(f"the snapshot {directory} cannot be written: {error}; {remedy}") from error


def is_snapshot(path: Path) -> bool:
    """Tell whether `path` is a folder written by `write_snapshot`, intact or damaged."""
    manifest = path / MANIFEST_NAME
    # Otherwise a damaged snapshot would be read as one folder per class.
    return manifest.is_file() and b'"akin-snapshot/' in manifest.read_bytes()


def read_snapshot(directory: Path) -> Snapshot:
    """Read a snapshot after verifying all its files; raises InvalidSnapshot."""
    directory = directory.expanduser().absolute()
    try:
        facts = verify_artifact(directory, KIND)
    except (InvalidArtifact, OSError) as error:
        raise InvalidSnapshot(str(error)) from error
    try:
        lines = (directory / ROWS_NAME).read_text(encoding="ascii").splitlines()
        images = [_image_of(json.loads(line), directory) for line in lines]
        problems = tuple(RowError(*problem) for problem in _list(facts["problems"]))
        notes = tuple(str(note) for note in _list(facts["notes"]))
        snapshot = _snapshot(str(facts["layout"]), images, problems, notes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSnapshot(f"the rows of {directory} cannot be read: {error!r}; take the snapshot again") from error
    if snapshot.snapshot_hash != facts.get("snapshot_hash"):
        raise InvalidSnapshot(f"the rows of {directory} do not match its hash; take the snapshot again")
    return snapshot


def _snapshot(
    layout: str, images: Iterable[SnapshotImage], problems: tuple[RowError, ...], notes: tuple[str, ...]
) -> Snapshot:
    ordered = tuple(sorted(images, key=lambda image: (*image.content, image.location)))
    digest = hashlib.sha256(canonical_json([image.content for image in ordered])).hexdigest()
    return Snapshot(layout, ordered, digest, problems, notes)


def _digests(paths: Sequence[Path]) -> Iterator[tuple[Path, str | OSError]]:
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        # In chunks, since a million pending tasks would take much memory.
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            yield from zip(chunk, pool.map(_digest_or_error, chunk), strict=True)


def _digest_or_error(path: Path) -> str | OSError:
    try:
        return sha256_of_file(path)
    except OSError as error:
        return error


def _unreadable(row: LabelledImage, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"the image {printable(row.path)} is missing; correct the path or remove the row"
    why = error.strerror or error
    return f"the image {printable(row.path)} cannot be read: {why}; make it readable or remove the row"


def _copy_images(images: Sequence[SnapshotImage], folder: Path, on_progress: Progress | None) -> dict[str, str]:
    """Write each distinct image once; return its file name by its hash."""
    names: dict[str, str] = {}
    for number, image in enumerate(images, start=1):
        if on_progress is not None:
            on_progress(number, len(images))
        if image.sha256 in names:
            continue
        ending = image.path.suffix.lower()
        name = f"images/{image.sha256[:2]}/{image.sha256}{ending if ending in IMAGE_ENDINGS else ''}"
        content = image.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise InvalidSnapshot(f"{image.location}: the image has changed since it was hashed; start again")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        names[image.sha256] = name
    return names


def _row_json(image: SnapshotImage, names: dict[str, str]) -> dict[str, str]:
    return {
        "sha256": image.sha256,
        "file": names[image.sha256],
        "label": image.label,
        "role": image.role,
        "part": image.part,
        "location": image.location,
    }


def _image_of(row: dict[str, str], directory: Path) -> SnapshotImage:
    if row["role"] not in get_args(Role) or row["part"] not in get_args(Part):
        raise ValueError(f"unknown role or part in {row}")
    return SnapshotImage(
        location=row["location"],
        path=directory / row["file"],
        label=_text(row["label"]),
        role=cast(Role, row["role"]),
        part=cast(Part, row["part"]),
        sha256=row["sha256"],
    )


def _text(value: object) -> str:
    # As it was hashed: a label is normalised when it is given, not when it is read again.
    if not isinstance(value, str) or not value:
        raise TypeError(f"text is needed, got {value!r}")
    return value


def _list(value: object) -> list[list[str]]:
    if not isinstance(value, list):
        raise TypeError(f"a list is needed, got {value!r}")
    return value
