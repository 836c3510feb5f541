"""Features of a frozen backbone, computed once per image and cached in files by embedding space.

A folder belongs to one backbone with its preprocessing and one augmentation; it contains parts that are only added. A
run that was killed therefore continues where it stopped, and a retraining embeds only new images. A view depends only
on its image and its number: equal files have equal features, within 1e-5, since batches of other sizes and other
runtimes round differently.

Shape legend: N images, R views of all of them, C channels.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from embedding.artifact import canonical_json
from embedding.embedder import space_id_of
from embedding.model import EmbeddingModel, without_head
from embedding.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.feature_rows import FEATURES_NAME, RowTable, StoredRows, load_rows
from training.data.pooling import ChooseNetwork, PooledViews, ViewPooling, WantedImage
from training.data.snapshot import SnapshotImage
from training.data.views import Views

# Settings that affect the number or choice of views, but not the views themselves.
_IRRELEVANT_TO_A_VIEW = frozenset({"plain", "views", "catalogue_views", "catalogue_scenes"})
_IMAGES_PER_PART = 256
_VERSION = 2
# Up to this size features are kept in memory.
_MAX_MEMORY_BYTES = 512 * 2**20

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Features:
    """Unit-length pooled features of the images' views [R, C]; an image's first view is the image itself.

    The views of image i are rows `offsets[i]` to `offsets[i + 1]`. `failures` maps the positions of unreadable images,
    whose rows are zeros, to the reasons. Many rows stay in their files.
    """

    rows_RC: Tensor | StoredRows
    offsets: NDArray[np.int64]  # [N + 1]
    failures: dict[int, str]

    @property
    def num_views(self) -> NDArray[np.int64]:
        """The number of views of each image [N]."""
        return np.diff(self.offsets)

    def plain(self, images: NDArray[np.int64]) -> Tensor:
        """Return the features of the images without augmentation [n, C]."""
        return self.take(self.offsets[images])

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the features of these rows [n, C]."""
        if isinstance(self.rows_RC, StoredRows):
            return self.rows_RC.take(rows)
        return self.rows_RC[torch.from_numpy(rows)]


class FeatureStore:
    """The features of one backbone under one augmentation, in `directory`/<space id>-<augmentation>."""

    def __init__(
        self,
        directory: Path,
        model: EmbeddingModel,
        preprocessing: Preprocessing,
        augmentation: AugmentationConfig,
        device: torch.device,
        *,
        choose_network: ChooseNetwork = lambda _num_views: None,
        max_memory_bytes: int = _MAX_MEMORY_BYTES,
    ) -> None:
        """`choose_network` is called when features are missing; without it, torch runs `model` on `device`."""
        self._model = without_head(model)
        self._device = device
        self._choose_network = choose_network
        self._views = Views(augmentation, preprocessing)
        settings = {
            name: v for name, v in dataclasses.asdict(augmentation).items() if name not in _IRRELEVANT_TO_A_VIEW
        }
        digest = hashlib.sha256(canonical_json([_VERSION, settings])).hexdigest()[:8]
        self.directory = directory / f"{space_id_of(self._model, preprocessing)}-{digest}"
        self._max_memory_bytes = max_memory_bytes

    def read_or_compute(
        self, images: Sequence[SnapshotImage], is_varied: NDArray[np.bool_], on_progress: OnProgress | None = None
    ) -> Features:
        """Return the features of `images`, computing and storing those that are missing.

        Only images marked in `is_varied` [N] have augmented views. `on_progress` receives (images done, all missing
        images). Raises OSError if features cannot be written; stored features remain.
        """
        views_of = [self._views.of(image, is_it) for image, is_it in zip(images, is_varied, strict=True)]
        contents = [image.sha256 for image in images]
        table = RowTable(list(dict.fromkeys(contents)), [view for views in set(views_of) for view in views])
        table.scan(self.directory)
        missing: dict[str, tuple[SnapshotImage, set[int]]] = {}
        for image, views in zip(images, views_of, strict=True):
            if lacking := table.lacking(image.sha256, views):
                missing.setdefault(image.sha256, (image, set()))[1].update(lacking)
        failed: dict[str, str] = {}
        if missing:
            failed = self._compute([(image, sorted(views)) for image, views in missing.values()], on_progress)
            table.scan(self.directory)
        offsets = np.zeros(len(images) + 1, np.int64)
        np.cumsum([len(views) for views in views_of], out=offsets[1:])
        failures = {position: failed[sha256] for position, sha256 in enumerate(contents) if sha256 in failed}
        rows = table.rows_of(contents, views_of, offsets, self._model.num_channels)
        is_large = 4 * len(rows) * rows.num_channels > self._max_memory_bytes
        return Features(rows if is_large else load_rows(rows), offsets, failures)

    def _compute(self, missing: Sequence[WantedImage], on_progress: OnProgress | None) -> dict[str, str]:
        """Compute and store views; returns the reasons for unreadable images by their hash."""
        network = self._choose_network(sum(len(views) for _, views in missing))
        pooling = ViewPooling(self._views, self._model, self._device, network)
        failed: dict[str, str] = {}
        part: list[PooledViews] = []
        num_done = num_stored = 0
        with closing(pooling.compute(missing)) as computed:
            for pooled in computed:
                part.append(pooled)
                failed.update(pooled.failures)
                num_done += pooled.num_images
                if num_done - num_stored >= _IMAGES_PER_PART or num_done == len(missing):
                    self._write_part(part)
                    part, num_stored = [], num_done
                if on_progress:
                    on_progress(num_done, len(missing))
        return failed

    def _write_part(self, part: Sequence[PooledViews]) -> None:
        keys = [key for pooled in part for key in pooled.keys]
        if not keys:
            return
        rows = torch.from_numpy(np.concatenate([pooled.rows for pooled in part]))
        self.directory.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        aside = self.directory / f".{name}-{os.getpid()}"
        try:
            save_file({FEATURES_NAME: rows}, aside, metadata={"keys": json.dumps(keys)})
            aside.replace(self.directory / f"part-{name}.safetensors")
        except (SafetensorError, OSError) as error:
            aside.unlink(missing_ok=True)
            raise OSError(
                f"features cannot be written to {self.directory}: {error}; free some disk, or choose another --cache"
            ) from error
