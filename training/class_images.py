"""The images of each class, and shuffled queues over them.

Both are arrays over all images ordered by class (compressed sparse rows), so that no work is done per class before the
class is used: a million classes cost one sort of their images.

Shape legend: N images, C classes.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


class Groups:
    """The members of C groups: those of group c are `members[offsets[c] : offsets[c + 1]]`."""

    def __init__(self, offsets: NDArray[np.int64], members: NDArray[np.int64]) -> None:
        self.offsets = offsets
        self.members = members

    @classmethod
    def of_labels(cls, labels_N: NDArray[np.int64], num_classes: int | None = None) -> "Groups":
        """Group the positions 0..N-1 by label; labels are 0..C-1."""
        num_classes = int(labels_N.max(initial=-1)) + 1 if num_classes is None else num_classes
        positions = np.arange(len(labels_N), dtype=np.int64)
        # A counting sort, several times as fast as argsort for millions of labels.
        ones = np.ones(len(labels_N), np.int8)
        rows = sparse.coo_array((ones, (labels_N, positions)), shape=(num_classes, len(labels_N))).tocsr()
        return cls(rows.indptr.astype(np.int64), rows.indices.astype(np.int64))

    @classmethod
    def of_one(cls, num_members: int) -> "Groups":
        """Return a single group of the members 0..num_members-1."""
        return cls(np.array([0, num_members], np.int64), np.arange(num_members, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def size(self, group: int) -> int:
        """Return the number of members of a group."""
        return int(self.offsets[group + 1] - self.offsets[group])

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of members of each group [C]."""
        return np.diff(self.offsets)


class Queues:
    """One queue per group: members are drawn without replacement, and shuffled again once all are drawn.

    A queue is first shuffled at its first draw. `max_c n_c` selections of one image per class select every image
    (docs/method.md §1, arXiv:2209.09060).
    """

    def __init__(self, groups: Groups, generator: np.random.Generator) -> None:
        self._groups = groups
        self._generator = generator
        self._order = groups.members.copy()
        # A queue whose position equals its length is empty, as all are at first.
        self._position = groups.sizes()

    def draw(self, group: int, count: int, taken: Collection[int] = ()) -> list[int]:
        """Draw `count` members, distinct and not in `taken` if the group has enough members.

        A group that is too small repeats members, but never the first of `taken`, which is the representative.
        """
        start, end = int(self._groups.offsets[group]), int(self._groups.offsets[group + 1])
        drawn: list[int] = []
        barred = list(taken)
        for _ in range(count):
            member = self._next(group, start, end, barred)
            drawn.append(member)
            barred.append(member)
        return drawn

    def _next(self, group: int, start: int, end: int, barred: Sequence[int]) -> int:
        place = self._find(start + int(self._position[group]), end, barred)
        if place is None:
            # The queue is empty, or contains only members already in this batch, which count as drawn.
            self._generator.shuffle(self._order[start:end])
            self._position[group] = 0
            place = self._find(start, end, barred)
            if place is None:
                place = self._find(start, end, barred[:1])
            if place is None:
                place = start
        front = start + int(self._position[group])
        order = self._order
        member = int(order[place])
        # The front member takes the drawn one's place and stays in the queue.
        order[place] = order[front]
        order[front] = member
        self._position[group] += 1
        return member

    def _find(self, front: int, end: int, barred: Sequence[int]) -> int | None:
        for place in range(front, end):
            if self._order[place] not in barred:
                return place
        return None

    def state(self) -> dict[str, NDArray[np.int64]]:
        """Return what determines the next draws, except the generator."""
        return {"order": self._order.copy(), "position": self._position.copy()}

    def restore(self, state: dict[str, NDArray[np.int64]]) -> None:
        """Continue from the state of queues over the same groups."""
        self._order[:] = state["order"]
        self._position[:] = state["position"]
