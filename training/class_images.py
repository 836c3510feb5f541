"""The images of each class, and queues that hand them out.

Both are arrays over all images in the order of their classes (compressed sparse rows), so that nothing is done per
class before it is used: a million classes cost what their images cost to sort, once.

Shape legend: N images, C classes.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


class Groups:
    """Members of each of C groups: those of group c are `members[offsets[c] : offsets[c + 1]]`."""

    def __init__(self, offsets: NDArray[np.int64], members: NDArray[np.int64]) -> None:
        self.offsets = offsets
        self.members = members

    @classmethod
    def of_labels(cls, labels_N: NDArray[np.int64], num_classes: int | None = None) -> "Groups":
        """Group the positions 0..N-1 by label; labels are 0..C-1."""
        num_classes = int(labels_N.max(initial=-1)) + 1 if num_classes is None else num_classes
        positions = np.arange(len(labels_N), dtype=np.int64)
        # A counting sort, several times as fast as argsort where there are millions of labels.
        ones = np.ones(len(labels_N), np.int8)
        rows = sparse.coo_array((ones, (labels_N, positions)), shape=(num_classes, len(labels_N))).tocsr()
        return cls(rows.indptr.astype(np.int64), rows.indices.astype(np.int64))

    @classmethod
    def of_one(cls, num_members: int) -> "Groups":
        """Return one group of all members 0..num_members-1."""
        return cls(np.array([0, num_members], np.int64), np.arange(num_members, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def size(self, group: int) -> int:
        """Return how many members a group has."""
        return int(self.offsets[group + 1] - self.offsets[group])

    def sizes(self) -> NDArray[np.int64]:
        """Return how many members each group has [C]."""
        return np.diff(self.offsets)


class Queues:
    """One shuffled queue a group: members are drawn without replacement, and shuffled anew when all were drawn.

    A queue is shuffled when it is first drawn from. `max_c n_c` selections of one image a class are enough to have
    seen every image (method.md §1, arXiv:2209.09060).
    """

    def __init__(self, groups: Groups, generator: np.random.Generator) -> None:
        self._groups = groups
        self._generator = generator
        self._order = groups.members.copy()
        # A queue whose position is its length is empty; so are all at first.
        self._position = groups.sizes()

    def draw(self, group: int, count: int, taken: Collection[int] = ()) -> list[int]:
        """Draw `count` members, none of `taken` and none twice where the group has enough others.

        A group that is too small repeats members rather than the first of `taken`, which is the representative.
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
            # Empty, or only members left that this batch has already: they count as drawn.
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
        # What stood in front takes the place of the drawn one, so that it comes next.
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
        """Return what decides the next draws, the generator aside."""
        return {"order": self._order.copy(), "position": self._position.copy()}

    def restore(self, state: dict[str, NDArray[np.int64]]) -> None:
        """Go on from a state of queues over the same groups."""
        self._order[:] = state["order"]
        self._position[:] = state["position"]
