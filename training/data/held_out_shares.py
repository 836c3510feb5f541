"""A snapshot as arrays, and the choice of classes and examples by hashes of their own content alone."""

import hashlib
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from training.data.snapshot import Snapshot, class_ids
from training.datasets.rows import Part
from training.errors import UnfitData

_MAX_NAMED = 5
# Changing this changes the held-out images of every installation.
_SALT = "akin-split/1"


def share_of(kind: str, text: str) -> float:
    """Hash a label or content to a number in [0, 1), independently for each kind."""
    digest = hashlib.sha256(f"{_SALT}/{kind}/{text}".encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


class Images:
    """The images of a snapshot as arrays [N], with their classes [C] in sorted order."""

    def __init__(self, snapshot: Snapshot) -> None:
        labels = snapshot.labels
        self.classes = sorted(set(labels))
        self.ids = class_ids(labels)
        self.has_roles = snapshot.has_roles
        self.is_example = np.array([image.role == "example" for image in snapshot.images], np.bool_)
        self._parts = np.array([image.part for image in snapshot.images])
        self._digests = [image.sha256 for image in snapshot.images]
        self._content = class_ids(self._digests)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def can_query(self) -> NDArray[np.bool_]:
        """Images [N] that may be queries: examples, or all images without roles."""
        return self.is_example if self.has_roles else np.ones(len(self), np.bool_)

    @property
    def is_trainable(self) -> NDArray[np.bool_]:
        """Images [N] whose stated part allows training; catalogue images next to examples state nothing."""
        is_neutral = ~self.is_example if self.has_roles else np.zeros(len(self), np.bool_)
        return self.is_part("train") | (self.is_part("") & ~is_neutral)

    def is_part(self, part: Part) -> NDArray[np.bool_]:
        """Return the images [N] of a stated part."""
        mask: NDArray[np.bool_] = self._parts == part
        return mask

    def classes_of(self, images: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the classes [C] with at least one of the images [N]."""
        return np.bincount(self.ids[images], minlength=len(self.classes)) > 0

    def in_classes(self, classes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the images [N] of the classes [C]."""
        return classes[self.ids]

    def mask_of(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Return the classes [C] with these names; raises UnfitData for a name that no image has."""
        if unknown := sorted(set(names) - set(self.classes)):
            shown = ", ".join(repr(name) for name in unknown[:_MAX_NAMED])
            raise UnfitData(f"split.unseen_classes names classes that the data do not have: {shown}; correct the names")
        wanted = set(names)
        return np.array([name in wanted for name in self.classes], np.bool_)

    def names_of(self, classes: NDArray[np.bool_]) -> tuple[str, ...]:
        """Return the labels of the classes [C]."""
        return tuple(self.classes[number] for number in np.flatnonzero(classes))

    def some_names(self, classes: NDArray[np.bool_]) -> str:
        """Return the first few labels of the classes [C] as text."""
        names = self.names_of(classes)
        more = ", ..." if len(names) > _MAX_NAMED else ""
        return ", ".join(repr(name) for name in names[:_MAX_NAMED]) + more

    def same_content_as(self, images: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the images [N] with the same file content as one of `images` [N], including these."""
        mask: NDArray[np.bool_] = np.isin(self._content, self._content[images])
        return mask

    def classes_by_hash(self, kind: str, share: float, among: NDArray[np.bool_], notes: list[str]) -> NDArray[np.bool_]:
        """Choose the classes [C] of the images `among` [N] whose label's hash is below `share`.

        If there is none by chance, the class with the smallest hash is chosen, with a note.
        """
        classes = self.classes_of(among)
        hashes = np.array([share_of(kind, name) for name in self.classes])
        chosen = classes & (hashes < share)
        if share == 0 or chosen.any() or not classes.any():
            return chosen
        # Prefer a class that can be evaluated: with an example, or without roles with two images.
        counts = np.bincount(self.ids[among & self.can_query], minlength=len(self.classes))
        measurable = classes & (counts >= (1 if self.has_roles else 2))
        candidates = np.flatnonzero(measurable if measurable.any() else classes)
        smallest = candidates[hashes[candidates].argmin()]
        chosen[smallest] = True
        notes.append(
            f"of {int(classes.sum()):,} classes none falls into the share {share} of the {kind}es by its hash; "
            f"{self.classes[smallest]!r} is used instead, and may return to training when classes are added"
        )
        return chosen

    def examples_by_hash(
        self, kind: str, share: float, among: NDArray[np.bool_], notes: list[str]
    ) -> NDArray[np.bool_]:
        """Choose the examples [N] whose content's hash is below `share`, or else the one with the smallest hash."""
        candidates = np.flatnonzero(among & self.is_example) if self.has_roles else np.zeros(0, np.int64)
        chosen = np.zeros(len(self), np.bool_)
        if share == 0 or not len(candidates):
            return chosen
        hashes = np.array([share_of(kind, self._digests[number]) for number in candidates])
        below = hashes < share
        if not below.any():
            below[hashes.argmin()] = True
            notes.append(
                f"of {len(candidates):,} examples none falls into the share {share} of the {kind}s by its hash; "
                "one is used instead, and may return to training when examples are added"
            )
        chosen[candidates[below]] = True
        return chosen

    def any_relevant(self, query: NDArray[np.int64], gallery: NDArray[np.int64] | None) -> bool:
        """Tell whether any query has a relevant image."""
        if gallery is None:
            return bool((np.bincount(self.ids[query]) > 1).any())
        return bool(np.isin(self.ids[query], self.ids[gallery]).any())
