"""Features of a frozen backbone, computed once per image and cached in files by embedding space.

A folder belongs to one backbone with its preprocessing and one augmentation; it contains parts that are only added. A
run that was killed therefore continues where it stopped, and a retraining embeds only new images. A view depends only
on its image and its number: equal files have equal features.

Shape legend: N images, R views of all of them, C channels.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from embedding.artifact import canonical_json
from embedding.decoding import decode_image
from embedding.embedder import Embedder
from embedding.errors import InvalidImage
from embedding.model import EmbeddingModel, without_head
from embedding.preprocessing import Preprocessing
from embedding.runtimes.network import NetworkOptions
from training.config import AugmentationConfig
from training.data.augmentation import Augmentation, Draws, uncropped
from training.data.feature_rows import FEATURES_NAME, RowTable, StoredRows, load_rows
from training.data.scenes import cut_out, draw_scene
from training.data.snapshot import SnapshotImage
from training.errors import InvalidDataset

# Settings that affect the number or choice of views, but not the views themselves.
_IRRELEVANT_TO_A_VIEW = frozenset({"plain", "views", "catalogue_views", "catalogue_scenes"})
# Scenes are numbered after all possible views, so that more views do not change them.
_FIRST_SCENE = 100
_IMAGES_PER_PART = 256
_VERSION = 2
# Up to this size features are kept in memory.
_MAX_MEMORY_BYTES = 512 * 2**20
# As in the Embedder: larger batches exceed a CPU's cache.
_BATCH_SIZES = {"cpu": 4, "cuda": 64}

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
        max_memory_bytes: int = _MAX_MEMORY_BYTES,
    ) -> None:
        self._embedder = Embedder(without_head(model), preprocessing, NetworkOptions(str(device)))
        self._pool = without_head(model).eval().pool
        self._preprocessing = preprocessing
        self._config = augmentation
        # `plain` applies when a view is chosen, not when it is computed.
        self._augmentation = Augmentation(dataclasses.replace(augmentation, plain=0.0), preprocessing)
        self._device = device
        settings = {
            name: v for name, v in dataclasses.asdict(augmentation).items() if name not in _IRRELEVANT_TO_A_VIEW
        }
        digest = hashlib.sha256(canonical_json([_VERSION, settings])).hexdigest()[:8]
        self.directory = directory / f"{self._embedder.space_id}-{digest}"
        self._example_views = tuple(range(1 + augmentation.views))
        scenes = range(_FIRST_SCENE, _FIRST_SCENE + augmentation.catalogue_scenes)
        self._catalogue_views = (*range(1 + augmentation.catalogue_views), *scenes)
        self._max_memory_bytes = max_memory_bytes

    def read_or_compute(
        self, images: Sequence[SnapshotImage], is_varied: NDArray[np.bool_], on_progress: OnProgress | None = None
    ) -> Features:
        """Return the features of `images`, computing and storing those that are missing.

        Only images marked in `is_varied` [N] have augmented views. `on_progress` receives (images done, all missing
        images). Raises OSError if features cannot be written; stored features remain.
        """
        views_of = [self._views_of(image, is_it) for image, is_it in zip(images, is_varied, strict=True)]
        contents = [image.sha256 for image in images]
        table = RowTable(list(dict.fromkeys(contents)), [view for views in set(views_of) for view in views])
        table.scan(self.directory)
        missing: dict[str, tuple[SnapshotImage, set[int]]] = {}
        for image, views in zip(images, views_of, strict=True):
            if lacking := table.lacking(image.sha256, views):
                missing.setdefault(image.sha256, (image, set()))[1].update(lacking)
        failed = self._compute(list(missing.values()), on_progress)
        if missing:
            table.scan(self.directory)
        offsets = np.zeros(len(images) + 1, np.int64)
        np.cumsum([len(views) for views in views_of], out=offsets[1:])
        failures = {position: failed[sha256] for position, sha256 in enumerate(contents) if sha256 in failed}
        rows = table.rows_of(contents, views_of, offsets, self._embedder.embedding_dim)
        is_large = 4 * len(rows) * rows.num_channels > self._max_memory_bytes
        return Features(rows if is_large else load_rows(rows), offsets, failures)

    def _views_of(self, image: SnapshotImage, is_varied: bool) -> tuple[int, ...]:
        """Return the numbers of an image's views: the image itself, crops, and synthetic scenes."""
        if not is_varied:
            return (0,)
        return self._catalogue_views if image.role == "catalogue" else self._example_views

    def _compute(self, missing: list[tuple[SnapshotImage, set[int]]], on_progress: OnProgress | None) -> dict[str, str]:
        """Compute and store views; returns the reasons for unreadable images by their hash."""
        failed: dict[str, str] = {}
        for start in range(0, len(missing), _IMAGES_PER_PART):
            part = missing[start : start + _IMAGES_PER_PART]
            keys: list[str] = []
            rows: list[Tensor] = []
            for number, (image, views, pixels, source) in enumerate(self._decoded(part, failed), start=1):
                if 0 in views:
                    rows.append(torch.from_numpy(self._embedder.embed_pixels(pixels[None])))
                    keys.append(_key(image.sha256, 0))
                crops = sorted(view for view in views if 0 < view < _FIRST_SCENE)
                if crops:
                    rows.append(self._embed_crops(image, source, crops))
                    keys += [_key(image.sha256, view) for view in crops]
                scenes = sorted(view for view in views if view >= _FIRST_SCENE)
                if scenes:
                    rows.append(self._embed_scenes(image, source, scenes))
                    keys += [_key(image.sha256, view) for view in scenes]
                if on_progress:
                    on_progress(start + number, len(missing))
            if rows:
                self._write_part(keys, torch.cat(rows))
        return failed

    def _decoded(
        self, missing: list[tuple[SnapshotImage, set[int]]], failed: dict[str, str]
    ) -> Iterator[tuple[SnapshotImage, set[int], NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield each image with its pixels for evaluation and for augmentation; decodes ahead in a thread."""
        square = uncropped(self._preprocessing)

        def decode(image: SnapshotImage) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | str:
            try:
                image_bytes = image.path.read_bytes()
            except OSError as error:
                raise InvalidDataset(f"{image.location} can no longer be read: {error}; restore it") from error
            if hashlib.sha256(image_bytes).hexdigest() != image.sha256:
                raise InvalidDataset(f"{image.location} has changed since the run started; start it again")
            try:
                decoded = decode_image(image_bytes)
            except InvalidImage as error:
                return str(error)
            pixels = self._preprocessing.to_pixels(decoded)
            return pixels, (pixels if square == self._preprocessing else square.to_pixels(decoded))

        with ThreadPoolExecutor(1) as pool:
            images = [image for image, _ in missing]
            for (image, views), result in zip(missing, pool.map(decode, images), strict=True):
                if isinstance(result, str):
                    failed[image.sha256] = result
                else:
                    yield image, views, *result

    @torch.inference_mode()
    def _embed_crops(self, image: SnapshotImage, source: NDArray[np.uint8], views: list[int]) -> Tensor:
        draws = [self._draw(image.sha256, view) for view in views]
        together = Draws(*(torch.cat([getattr(d, f.name) for d in draws]) for f in dataclasses.fields(Draws)))
        pixels = torch.from_numpy(np.array(source)).to(self._device)
        rows = []
        size = _BATCH_SIZES[self._device.type]
        for start in range(0, len(views), size):
            part = together[start : start + size]
            batch = self._augmentation.apply(pixels.expand(len(part), *pixels.shape), part)
            rows.append(self._pool(batch).float().cpu())
        return torch.cat(rows)

    def _embed_scenes(self, image: SnapshotImage, source: NDArray[np.uint8], views: list[int]) -> Tensor:
        cut = cut_out(Image.fromarray(source))
        size = self._preprocessing.image_size
        scenes = [draw_scene(cut, size, np.random.default_rng(_seed(image.sha256, view))) for view in views]
        return torch.from_numpy(self._embedder.embed_pixels(np.stack([np.asarray(scene) for scene in scenes])))

    def _draw(self, sha256: str, view: int) -> Draws:
        return self._augmentation.draw(1, torch.Generator().manual_seed(_seed(sha256, view)))

    def _write_part(self, keys: list[str], features_NC: Tensor) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        aside = self.directory / f".{name}-{os.getpid()}"
        try:
            save_file({FEATURES_NAME: features_NC.contiguous()}, aside, metadata={"keys": json.dumps(keys)})
            aside.replace(self.directory / f"part-{name}.safetensors")
        except (SafetensorError, OSError) as error:
            aside.unlink(missing_ok=True)
            raise OSError(
                f"features cannot be written to {self.directory}: {error}; free some disk, or choose another --cache"
            ) from error


def _seed(sha256: str, view: int) -> int:
    return int(sha256[:12], 16) * 1000 + view


def _key(sha256: str, view: int) -> str:
    return f"{sha256}/{view}"
