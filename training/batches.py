"""Batches of P classes × m images, with the representatives of the current selection among them (docs/method.md §3).

A batch is planned one step ahead: its seed classes are drawn and their nearest classes requested before the current
step is computed. The device therefore never waits for the host, and mining uses a table that is one step old.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.class_images import Groups, Queues
from training.config import BatchConfig
from training.mining import NearestClasses, RepresentativeTable, choose_classes

_ONE_QUEUE = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one step: the m images of a class are adjacent, with its representative first."""

    images: NDArray[np.int64]  # [P × m] positions among the training images
    labels: NDArray[np.int64]  # [P × m] class ids
    is_representative: NDArray[np.bool_]  # [P × m] all False without representatives
    classes: NDArray[np.int64]  # [P]
    num_mined: int


@dataclass(slots=True)
class _Plan:
    """The seed classes of the next batch and the classes nearest to them."""

    seeds: list[int]
    nearest: NearestClasses | None


class BatchSampler:
    """Draws an endless sequence of batches; equal seeds and states give equal batches.

    `labels` are the class ids 0..C-1 of the training images, with at least two images per class; `is_catalogue` marks
    the catalogue images among them.
    """

    def __init__(
        self,
        config: BatchConfig,
        labels: NDArray[np.int64],
        is_catalogue: NDArray[np.bool_],
        table: RepresentativeTable,
        *,
        seed: int,
    ) -> None:
        streams = np.random.SeedSequence(seed).spawn(3)
        self._generators = [np.random.default_rng(stream) for stream in streams]
        for_classes, for_images, for_representatives = self._generators
        images = Groups.of_labels(labels)
        self.num_classes = len(images)
        self._config = config
        self._table = table
        self._num_per_batch = min(config.classes_per_batch, self.num_classes)
        self._classes = Queues(Groups.of_one(self.num_classes), for_classes)
        self._images = Queues(images, for_images)
        self._representatives = self._images if config.share_queue else Queues(images, for_representatives)
        self._catalogue = _catalogue_groups(labels, is_catalogue, self.num_classes)
        self._catalogue_queues = Queues(self._catalogue, for_representatives)
        # The representative of each class; -1: not drawn yet in this projection.
        self._current = np.full(self.num_classes, -1, np.int64)
        self._drawn_at = np.zeros(self.num_classes, np.int64)
        self._num_batches = 0
        self._projection = 0
        self._num_drawn = 0
        self._plan: _Plan | None = None

    @property
    def epoch(self) -> float:
        """The mean number of times that a class has been a seed."""
        return self._num_drawn / self.num_classes

    def begin_projection(self, number: int) -> None:
        """Discard the representatives; each class draws a new one at its first use (projections count from 0)."""
        self._projection = number
        self._current.fill(-1)

    def representative_of(self, class_id: int) -> int:
        """Return the representative of a class in this projection, drawn at first use."""
        image = int(self._current[class_id])
        if image < 0:
            image = self._draw_representative(class_id)
            self._current[class_id] = image
            self._drawn_at[class_id] = self._num_batches
        return image

    def mean_age_of_representatives(self, classes: NDArray[np.int64]) -> float | None:
        """Return the mean number of steps since the representatives were drawn; None without representatives."""
        if self._config.representatives == "none":
            return None
        return float((self._num_batches - self._drawn_at[classes]).mean())

    def prepare(self) -> None:
        """Draw the seed classes of the next batch and request the classes nearest to them."""
        config = self._config
        num_mined = int(config.hard_class_fraction * self._num_per_batch)
        if self._table.filled_share < config.mine_from_share:
            num_mined = 0
        seeds = self._classes.draw(_ONE_QUEUE, self._num_per_batch - num_mined)
        self._num_drawn += len(seeds)
        # A seed without a row in the table has no neighbours.
        seeds_in_table = [seed for seed in seeds if self._table.is_filled(seed)] if num_mined else []
        nearest = None
        if seeds_in_table:
            # With as many candidates as classes per batch, at least one is outside the batch.
            nearest = self._table.request_nearest(np.array(seeds_in_table, np.int64), self._num_per_batch)
        self._plan = _Plan(seeds, nearest)

    def take(self) -> Batch:
        """Return the prepared batch."""
        if self._plan is None:
            raise RuntimeError("call prepare() before take()")
        plan, self._plan = self._plan, None
        num_random = len(plan.seeds)
        classes = plan.seeds
        if plan.nearest is not None:
            classes = choose_classes(plan.seeds, plan.nearest.wait(), self._num_per_batch, self._table)
        self._num_batches += 1
        num_mined = len(classes) - num_random
        if len(classes) < self._num_per_batch:
            more = self._classes.draw(_ONE_QUEUE, self._num_per_batch - len(classes), classes)
            self._num_drawn += len(more)
            classes = classes + more
        return self._batch_of(classes, num_mined)

    def _batch_of(self, classes: list[int], num_mined: int) -> Batch:
        images_per_class = self._config.images_per_class
        images: list[int] = []
        has_representatives = self._config.representatives != "none"
        for class_id in classes:
            if has_representatives:
                first = self.representative_of(class_id)
                images.append(first)
                images += self._images.draw(class_id, images_per_class - 1, (first,))
            else:
                images += self._images.draw(class_id, images_per_class)
        ids = np.array(classes, np.int64)
        is_representative = np.zeros((len(classes), images_per_class), np.bool_)
        is_representative[:, 0] = has_representatives
        return Batch(
            np.array(images, np.int64), ids.repeat(images_per_class), is_representative.reshape(-1), ids, num_mined
        )

    def _draw_representative(self, class_id: int) -> int:
        source = self._config.representatives
        draws_from_catalogue = source == "catalogue" or (source == "alternate" and self._projection % 2 == 0)
        if draws_from_catalogue and self._catalogue.size(class_id):
            return self._catalogue_queues.draw(class_id, 1)[0]
        return self._representatives.draw(class_id, 1)[0]

    def state(self) -> dict[str, Any]:
        """Return everything that determines the next batches."""
        assert self._plan is not None
        nearest = None if self._plan.nearest is None else torch.from_numpy(self._plan.nearest.wait().copy())
        return {
            "generators": [generator.bit_generator.state for generator in self._generators],
            "classes": _as_tensors(self._classes.state()),
            "images": _as_tensors(self._images.state()),
            "representatives": _as_tensors(self._representatives.state()),
            "catalogue": _as_tensors(self._catalogue_queues.state()),
            "current": torch.from_numpy(self._current.copy()),
            "drawn_at": torch.from_numpy(self._drawn_at.copy()),
            "num_batches": self._num_batches,
            "projection": self._projection,
            "num_drawn": self._num_drawn,
            "seeds": self._plan.seeds,
            "nearest": nearest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a stored state, including its planned batch."""
        for generator, stored in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = stored
        for name, queues in (
            ("classes", self._classes),
            ("images", self._images),
            ("representatives", self._representatives),
            ("catalogue", self._catalogue_queues),
        ):
            queues.restore({key: tensor.numpy() for key, tensor in state[name].items()})
        self._current[:] = state["current"].numpy()
        self._drawn_at[:] = state["drawn_at"].numpy()
        self._num_batches = state["num_batches"]
        self._projection = state["projection"]
        self._num_drawn = state["num_drawn"]
        nearest = None if state["nearest"] is None else NearestClasses(state["nearest"], None)
        self._plan = _Plan(list(state["seeds"]), nearest)


def _catalogue_groups(labels: NDArray[np.int64], is_catalogue: NDArray[np.bool_], num_classes: int) -> Groups:
    positions = np.flatnonzero(is_catalogue)
    groups = Groups.of_labels(labels[positions], num_classes)
    return Groups(groups.offsets, positions[groups.members])


def _as_tensors(state: dict[str, NDArray[np.int64]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in state.items()}
