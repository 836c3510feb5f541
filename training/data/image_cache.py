"""A cache of decoded images as uint8 pixels, so that images are decoded once and not in every epoch.

Every image is a square: its centre, resized to `size` by the same code as for indexing and requests
(`Preprocessing.to_pixels`). With `crop_fraction` 1 it is the largest centred square; the rest of a long image is used
neither in training nor by the finished network.
"""

import dataclasses
import errno
import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding.artifact import new_artifact, read_manifest
from embedding.decoding import decode_image
from embedding.errors import InvalidArtifact, InvalidImage
from embedding.preprocessing import Preprocessing
from training.data.snapshot import Progress, Snapshot, SnapshotImage
from training.errors import InvalidDataset, TrainingError

KIND = "akin-image-cache/1"
PIXELS_NAME = "pixels.npy"
_MAX_THREADS = 32
# Limit of decoded images that wait to be written.
_MAX_CHUNK_BYTES = 64 * 2**20
# How much is read of a mapped file before its pages are given back.
_MAX_MAPPED_BYTES = 256 * 2**20


class ImageCache:
    """Square uint8 pixels of every image of a snapshot, in memory or in a memory-mapped file.

    `failures` maps the position of an unreadable image to the reason; its pixels are zeros and must not be used.
    """

    def __init__(self, pixels_NHWC: NDArray[np.uint8], failures: Mapping[int, str]) -> None:
        self._pixels = pixels_NHWC
        self.failures = dict(failures)
        self._mapping = _mapping_of(pixels_NHWC)
        self._num_bytes_read = 0

    @classmethod
    def build(
        cls,
        snapshot: Snapshot,
        preprocessing: Preprocessing,
        *,
        size: int,
        crop_fraction: float = 1.0,
        directory: Path | None = None,
        max_memory_bytes: int = 2 * 2**30,
        num_threads: int | None = None,
        on_progress: Progress | None = None,
    ) -> Self:
        """Decode the images of a snapshot, or open an existing cache in `directory`.

        With the size and the crop fraction of `preprocessing` the pixels equal the input of an Embedder. Raises
        TrainingError if the pixels fit neither in memory nor on the disk, and InvalidDataset if a file has changed
        since it was hashed.

        Args:
            snapshot: the images to decode.
            preprocessing: provides the interpolation and the version of decoding.
            size: side of the squares in pixels.
            crop_fraction: side of the cropped square as a share of the image's shorter side.
            directory: folder of the cache file; None keeps the pixels in memory.
            max_memory_bytes: upper bound of pixels in memory.
            num_threads: number of images decoded at once; None: one per core.
            on_progress: receives (images decoded, all images), in the caller's thread.
        """
        geometry = dataclasses.replace(preprocessing, image_size=size, crop_fraction=crop_fraction)
        shape = (len(snapshot.images), size, size, 3)
        chunks = _Chunks(snapshot.images, geometry, num_threads, on_progress)
        if directory is not None:
            return cls._on_disk(snapshot, geometry, chunks, shape, directory)
        if (num_bytes := int(np.prod(shape))) > max_memory_bytes:
            raise TrainingError(
                f"{shape[0]:,} images of {size} pixels take {_mib(num_bytes)} of memory, and "
                f"{_mib(max_memory_bytes)} are allowed; keep them in a file by naming a folder for the cache, or "
                "lower the image size"
            )
        pixels = np.zeros(shape, np.uint8)
        for start, chunk in chunks:
            pixels[start : start + len(chunk)] = chunk
        return cls(pixels, chunks.failures)

    @classmethod
    def _on_disk(
        cls, snapshot: Snapshot, geometry: Preprocessing, chunks: "_Chunks", shape: tuple[int, ...], directory: Path
    ) -> Self:
        name = (
            f"pixels-{snapshot.snapshot_hash[:16]}-{geometry.image_size}-{geometry.crop_fraction:g}"
            f"-{geometry.interpolation}-decoding{geometry.decoding}"
        )
        folder = directory / name
        facts: dict[str, object] = {"snapshot_hash": snapshot.snapshot_hash, "geometry": _facts_of(geometry)}
        # Checked first: a folder that appears later is the complete cache of another process.
        is_old = folder.exists()
        if (cache := cls._reopened(folder, facts, shape)) is not None:
            return cache
        _make_room(folder, int(np.prod(shape)), is_old)
        try:
            with new_artifact(folder, KIND, facts) as draft:
                with (draft.path / PIXELS_NAME).open("wb") as file:
                    _write_pixels(file, chunks, shape)
                draft.facts["failures"] = {str(number): why for number, why in chunks.failures.items()}
        except FileExistsError:
            pass  # another process wrote the same pixels first
        except OSError as error:
            raise TrainingError(
                f"the image cache in {directory} cannot be written: {error}; free some space or name another folder"
            ) from error
        if (cache := cls._reopened(folder, facts, shape)) is None:
            raise TrainingError(f"the image cache {folder} was changed while it was written; start again")
        return cache

    @classmethod
    def _reopened(cls, folder: Path, facts: Mapping[str, object], shape: tuple[int, ...]) -> Self | None:
        """Open an existing cache; None if there is none, or if it is incomplete or of other images."""
        try:
            stored = read_manifest(folder, KIND)["facts"]
            pixels = np.load(folder / PIXELS_NAME, mmap_mode="r")
        except (InvalidArtifact, OSError, ValueError):
            return None
        if not isinstance(stored, dict) or pixels.shape != shape or pixels.dtype != np.uint8:
            return None
        failures = stored.pop("failures", None)
        if stored != facts or not isinstance(failures, dict):
            return None
        return cls(np.asarray(pixels), {int(number): why for number, why in failures.items()})

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def size(self) -> int:
        """Side of the squares in pixels."""
        return int(self._pixels.shape[1])

    def pixels(self, images: NDArray[np.int64], *, pin_memory: bool = False) -> Tensor:
        """Return a copy of the pixels [B, H, W, 3] of the images at these positions.

        Pinned memory can be copied to a GPU asynchronously.
        """
        if len(images) and not 0 <= images.min() <= images.max() < len(self):
            raise IndexError(f"positions must lie within 0..{len(self) - 1}, got {images.min()}..{images.max()}")
        pixels_BHWC = torch.empty((len(images), *self._pixels.shape[1:]), dtype=torch.uint8, pin_memory=pin_memory)
        # The bounds are checked above; mode "clip" lets numpy write directly into the tensor.
        np.take(self._pixels, images, axis=0, out=pixels_BHWC.numpy(), mode="clip")
        self._release(pixels_BHWC.nbytes)
        return pixels_BHWC

    def _release(self, num_bytes: int) -> None:
        """Give pages of the mapped file back now and then: they count as memory of the process until then."""
        self._num_bytes_read += num_bytes
        if self._mapping is not None and self._num_bytes_read > _MAX_MAPPED_BYTES:
            # The pages stay in the system's cache, so reading them again is cheap.
            self._mapping.madvise(mmap.MADV_DONTNEED)
            self._num_bytes_read = 0


class _Chunks:
    """Iterates over decoded images in order, in chunks (start, pixels [n, H, W, 3])."""

    def __init__(
        self,
        images: tuple[SnapshotImage, ...],
        geometry: Preprocessing,
        num_threads: int | None,
        on_progress: Progress | None,
    ) -> None:
        self._images = images
        self._geometry = geometry
        self._num_threads = num_threads or min(os.cpu_count() or 1, _MAX_THREADS)
        self._on_progress = on_progress
        self.failures: dict[int, str] = {}

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        size = self._geometry.image_size
        length = max(self._num_threads, _MAX_CHUNK_BYTES // (size * size * 3))
        with ThreadPoolExecutor(self._num_threads) as pool:
            for start in range(0, len(self._images), length):
                images = self._images[start : start + length]
                chunk = np.zeros((len(images), size, size, 3), np.uint8)
                for number, decoded in enumerate(pool.map(self._pixels_or_error, images)):
                    if isinstance(decoded, InvalidImage):
                        self.failures[start + number] = str(decoded)
                    else:
                        chunk[number] = decoded
                    if self._on_progress is not None:
                        self._on_progress(start + number + 1, len(self._images))
                yield start, chunk

    def _pixels_or_error(self, image: SnapshotImage) -> NDArray[np.uint8] | InvalidImage:
        try:
            image_bytes = image.path.read_bytes()
        except OSError as error:
            raise InvalidDataset(f"{image.location}: the image can no longer be read: {error}") from error
        if hashlib.sha256(image_bytes).hexdigest() != image.sha256:
            raise InvalidDataset(f"{image.location}: the image has changed since it was hashed; start again")
        try:
            return self._geometry.to_pixels(decode_image(image_bytes))
        except InvalidImage as error:
            return error


def _mapping_of(pixels_NHWC: NDArray[np.uint8]) -> mmap.mmap | None:
    """Return the mapped file that an array shows, or None for an array in memory."""
    base: object = pixels_NHWC
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None


def _facts_of(geometry: Preprocessing) -> dict[str, object]:
    """Return what determines the pixels; mean and std are applied later."""
    stored = geometry.to_json()
    return {name: stored[name] for name in ("image_size", "crop_fraction", "interpolation", "decoding")}


def _write_pixels(file: BinaryIO, chunks: _Chunks, shape: tuple[int, ...]) -> None:
    # Not through a memory map: on a full disk it kills the process, whereas write() raises an error.
    header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for _, chunk in chunks:
        file.write(chunk.data)


def _make_room(folder: Path, num_bytes: int, is_damaged: bool) -> None:
    """Remove a damaged cache, and check before decoding that the disk has room for a new one."""
    try:
        if is_damaged:
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < num_bytes:
            raise OSError(errno.ENOSPC, f"{_mib(num_bytes)} are needed and {_mib(free)} are free")
    except OSError as error:
        raise TrainingError(
            f"the image cache in {folder.parent} cannot be written: {error.strerror or error}; free some space, name "
            "another folder, or lower the image size"
        ) from error


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
