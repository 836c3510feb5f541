"""The views of an image: the image itself, augmented crops, and synthetic scenes of a catalogue image.

A view is named by its number and depends only on the image and this number.

Shape legend: V views of an image, H height, W width.
"""

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from embedding.decoding import decode_image
from embedding.preprocessing import Preprocessing
from training.config import AugmentationConfig
from training.data.augmentation import Augmentation, Draws, uncropped
from training.data.scenes import cut_out, draw_scene
from training.data.snapshot import SnapshotImage
from training.errors import InvalidDataset

PLAIN = 0
# Scenes are numbered after all possible crops, so that more crops do not change them.
_FIRST_SCENE = 100


@dataclass(frozen=True, slots=True)
class PreparedViews:
    """Views that are decoded and drawn; the crops are not cut yet, which the network's device does."""

    sha256: str
    views: tuple[int, ...]  # ascending: the image, crops, scenes
    plain: NDArray[np.uint8]  # [0 or 1, H, W, 3]
    source: NDArray[np.uint8]  # the image that is cropped; larger than a view if the evaluation crops
    crops: Draws
    scenes: NDArray[np.uint8]  # [number of scenes, H, W, 3]

    @property
    def keys(self) -> list[str]:
        """The name of each view in files of features."""
        return [view_key(self.sha256, view) for view in self.views]


class Views:
    """Which views images have, and how they are made."""

    def __init__(self, config: AugmentationConfig, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._square = uncropped(preprocessing)
        # `plain` applies when a view is chosen, not when it is computed.
        self._augmentation = Augmentation(dataclasses.replace(config, plain=0.0), preprocessing)
        self._of_example = tuple(range(1 + config.views))
        scenes = range(_FIRST_SCENE, _FIRST_SCENE + config.catalogue_scenes)
        self._of_catalogue = (*range(1 + config.catalogue_views), *scenes)

    def of(self, image: SnapshotImage, is_varied: bool) -> tuple[int, ...]:
        """Return the numbers of an image's views; one that is not varied is its only view."""
        if not is_varied:
            return (PLAIN,)
        return self._of_catalogue if image.role == "catalogue" else self._of_example

    def prepare(self, image: SnapshotImage, views: Collection[int]) -> PreparedViews:
        """Decode an image and draw views of it; safe in any thread.

        Raises InvalidImage, and InvalidDataset if the file is gone or has changed.
        """
        decoded = decode_image(_image_bytes(image))
        pixels = self._preprocessing.to_pixels(decoded)
        source = pixels if self._square == self._preprocessing else self._square.to_pixels(decoded)
        seeds = [_seed(image.sha256, view) for view in sorted(views) if PLAIN < view < _FIRST_SCENE]
        return PreparedViews(
            image.sha256,
            tuple(sorted(views)),
            pixels[None] if PLAIN in views else pixels[None][:0],
            source,
            self._augmentation.draw_seeded(seeds),
            self._scenes(source, [_seed(image.sha256, view) for view in sorted(views) if view >= _FIRST_SCENE]),
        )

    def _scenes(self, source: NDArray[np.uint8], seeds: list[int]) -> NDArray[np.uint8]:
        size = self._preprocessing.image_size
        scenes = np.empty((len(seeds), size, size, 3), np.uint8)
        if seeds:
            cut = cut_out(Image.fromarray(source))
            for scene, seed in zip(scenes, seeds, strict=True):
                scene[:] = np.asarray(draw_scene(cut, size, np.random.default_rng(seed)))
        return scenes

    def inputs(
        self, prepared: PreparedViews, device: torch.device, memory_format: torch.memory_format
    ) -> tuple[Tensor, ...]:
        """Return the network's normalised inputs [V, 3, H, W] on the device, in parts that together have all views."""
        # Copied, since torch warns about read-only arrays such as those from Pillow.
        plain, scenes = (torch.from_numpy(np.array(part)).to(device) for part in (prepared.plain, prepared.scenes))
        parts = [self._preprocessing.normalise(plain)] if len(plain) else []
        if len(prepared.crops):
            source = torch.from_numpy(np.array(prepared.source)).to(device)
            parts.append(self._augmentation.apply(source[None], prepared.crops, memory_format))
        if len(scenes):
            parts.append(self._preprocessing.normalise(scenes))
        return tuple(parts)


def view_key(sha256: str, view: int) -> str:
    """Return the name of a view in files of features."""
    return f"{sha256}/{view}"


def _image_bytes(image: SnapshotImage) -> bytes:
    try:
        image_bytes = image.path.read_bytes()
    except OSError as error:
        raise InvalidDataset(f"{image.location} can no longer be read: {error}; restore it") from error
    if hashlib.sha256(image_bytes).hexdigest() != image.sha256:
        raise InvalidDataset(f"{image.location} has changed since the run started; start it again")
    return image_bytes


def _seed(sha256: str, view: int) -> int:
    return int(sha256[:12], 16) * 1000 + view
