"""Compute the pooled features of views, in batches across images, while the next images are decoded and drawn.

Shape legend: V views, C channels.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding.cores import available_cores
from embedding.errors import InvalidImage
from embedding.model import EmbeddingModel
from embedding.runtimes.torch_network import BATCH_SIZES
from training.data.prefetch import map_ahead
from training.data.snapshot import SnapshotImage
from training.data.views import PreparedViews, Views

# The most threads that decode and draw for a GPU.
_MAX_THREADS = 16
# Images are decoded and drawn in groups of about as many views, or as many as fit a batch on a GPU.
_VIEWS_PER_GROUP = 16

# An image, and the numbers of its views to compute.
WantedImage = tuple[SnapshotImage, Sequence[int]]


class ThreadedNetwork(Protocol):
    """A network on the CPU that many threads run at once, each of them on a core of its own."""

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the pooled features [V, C] of normalised images [V, 3, H, W]."""


# Returns the network that computes this number of views, or None for the model itself, run by torch.
ChooseNetwork = Callable[[int], ThreadedNetwork | None]


@dataclass(frozen=True, slots=True)
class PooledViews:
    """Features of the views of some images."""

    num_images: int
    keys: list[str]  # of each row
    rows: NDArray[np.float32]  # [V, C]
    failures: dict[str, str]  # reasons by the hashes of unreadable images


class ViewPooling:
    """Computes features of views with a model, by torch or by another runtime."""

    def __init__(
        self, views: Views, model: EmbeddingModel, device: torch.device, network: ThreadedNetwork | None
    ) -> None:
        if network is None:
            # Like the Embedder: convolutions on a CPU are 1.7 times as fast in this layout.
            model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._views = views
        self._model = model
        self._device = torch.device("cpu") if network else device
        self._network = network
        self._batch_size = BATCH_SIZES[self._device.type]

    def compute(self, wanted: Sequence[WantedImage]) -> Generator[PooledViews, None, None]:
        """Yield the features of groups of images, in order.

        Raises InvalidDataset if a file is gone or has changed.
        """
        if self._network:
            return self._compute_in_threads(_groups(wanted, 1))
        return self._compute_with_torch(_groups(wanted, max(self._batch_size, _VIEWS_PER_GROUP)))

    def _compute_in_threads(self, groups: list[Sequence[WantedImage]]) -> Generator[PooledViews, None, None]:
        """Let each thread decode, draw and run the network, so that no core waits for another."""
        num_threads = torch.get_num_threads()
        try:
            # The augmentation is torch's, which otherwise takes all cores in each of the threads.
            with ThreadPoolExecutor(num_threads, "features", torch.set_num_threads, (1,)) as pool:
                yield from map_ahead(pool, lambda group: self._pool(self._prepare(group)), groups, 2 * num_threads)
        finally:
            # Also the number of threads that torch takes in threads to come.
            torch.set_num_threads(num_threads)

    def _compute_with_torch(self, groups: list[Sequence[WantedImage]]) -> Generator[PooledViews, None, None]:
        """Run the network in this thread alone: torch slows down when several threads have run networks."""
        # On a CPU the network needs the cores.
        num_threads = 1 if self._device.type == "cpu" else min(available_cores(), _MAX_THREADS)
        with ThreadPoolExecutor(num_threads, "views") as pool:
            for prepared in map_ahead(pool, self._prepare, groups, 2 * num_threads):
                yield self._pool(prepared)

    def _prepare(self, group: Sequence[WantedImage]) -> tuple[list[PreparedViews], dict[str, str]]:
        prepared, failures = [], {}
        for image, views in group:
            try:
                prepared.append(self._views.prepare(image, views))
            except InvalidImage as error:
                failures[image.sha256] = str(error)
        return prepared, failures

    @torch.inference_mode()
    def _pool(self, group: tuple[list[PreparedViews], dict[str, str]]) -> PooledViews:
        prepared, failures = group
        pooled = [np.empty((0, self._model.num_channels), np.float32)]
        for batch in self._batches(prepared):
            if self._network:
                pooled.append(self._network.run(batch.numpy()))
            else:
                pooled.append(self._model.pool(batch).float().cpu().numpy())
        keys = [key for image in prepared for key in image.keys]
        return PooledViews(len(prepared) + len(failures), keys, np.concatenate(pooled), failures)

    def _batches(self, prepared: Sequence[PreparedViews]) -> Iterator[Tensor]:
        """Yield the normalised inputs of all views, in order."""
        layout = torch.contiguous_format if self._network else torch.channels_last
        parts = [part for image in prepared for part in self._views.inputs(image, self._device, layout)]
        if self._network:
            # One by one: a single core gains nothing from a batch and loses the contents of its cache.
            for part in parts:
                yield from (part[row : row + 1].contiguous() for row in range(len(part)))
        elif parts:
            inputs = torch.cat(parts).contiguous(memory_format=layout)
            yield from inputs.tensor_split(-(-len(inputs) // self._batch_size))


def _groups(wanted: Sequence[WantedImage], max_views: int) -> list[Sequence[WantedImage]]:
    """Cut images into groups of at most `max_views` views, or of one image."""
    starts: list[int] = []
    num_views = 0
    for position, (_, views) in enumerate(wanted):
        if not starts or num_views + len(views) > max_views:
            starts.append(position)
            num_views = 0
        num_views += len(views)
    return [wanted[start:end] for start, end in zip(starts, [*starts[1:], len(wanted)], strict=True)]
