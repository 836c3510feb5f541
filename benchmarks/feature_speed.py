"""Seconds for the features of a frozen backbone, as `akin train` computes them, against one image at a time with torch.

    python -m benchmarks.feature_speed [--data DATASET] [--num-images 60] [--num-catalogue 2] [--rounds 3] [--json FILE]

DATASET is what `akin train --data` takes; by default, a sample catalogue is drawn. The images are photos that are
trained on, with the views of preset head, and catalogue images with their crops and scenes. "Before" is the way
features were computed until ONNX Runtime ran them: torch, the views of one image in a batch of at most four, the next
image decoded meanwhile. Both ways take turns on the same images. Prints seconds, views per second, the ratio, and the
largest difference between features. The export of the network, about ten seconds once per backbone, is printed apart.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.table import Row, write_rows
from embedding.embedder import Embedder
from embedding.model import Architecture, EmbeddingModel, create_model
from embedding.preprocessing import Preprocessing
from embedding.runtimes.options import NetworkOptions
from service.demo.sample.catalogue import write_sample_catalogue
from training.config import AugmentationConfig, load_preset
from training.data.augmentation import Draws
from training.data.features import FeatureStore
from training.data.pooling import ThreadedNetwork
from training.data.snapshot import SnapshotImage, open_training_data
from training.data.views import PreparedViews, Views
from training.running.networks import threaded_network

_GREY = (0.299, 0.587, 0.114)
_CROPS_AT_ONCE = 4


class OneImageAtATime:
    """The features of an image's views by torch, as they were computed before."""

    def __init__(self, model: EmbeddingModel, preprocessing: Preprocessing, augmentation: AugmentationConfig) -> None:
        self._embedder = Embedder(model, preprocessing, NetworkOptions("cpu"))
        self._model = model
        self._preprocessing = preprocessing
        self._views = Views(augmentation, preprocessing)
        self._mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)

    def compute(self, images: Sequence[SnapshotImage]) -> NDArray[np.float32]:
        """Return the features of all views."""
        rows: list[NDArray[np.float32]] = []
        with ThreadPoolExecutor(1) as pool:
            prepared = pool.map(lambda image: self._views.prepare(image, self._views.of(image, is_varied=True)), images)
            for image in prepared:
                rows.append(self._embedder.embed_pixels(image.plain))
                rows += self._embed_crops(image)
                rows.append(self._embedder.embed_pixels(image.scenes))
        return np.concatenate(rows)

    @torch.inference_mode()
    def _embed_crops(self, image: PreparedViews) -> list[NDArray[np.float32]]:
        pixels = torch.from_numpy(np.array(image.source))
        rows = []
        for start in range(0, len(image.crops), _CROPS_AT_ONCE):
            draws = image.crops[start : start + _CROPS_AT_ONCE]
            batch = self._augment(pixels.expand(len(draws), *pixels.shape), draws)
            rows.append(self._model.pool(batch).numpy())
        return rows

    def _augment(self, pixels_BHWC: Tensor, draws: Draws) -> Tensor:
        images = pixels_BHWC.permute(0, 3, 1, 2).float() / 255
        centre_x, centre_y, width, height = draws.crop.unbind(1)
        zero = torch.zeros_like(width)
        matrix = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(-1, 2, 3)
        size = self._preprocessing.image_size
        grid = F.affine_grid(matrix, [len(images), 3, size, size], align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        images = _recolour(images, draws.colour)
        return ((images - self._mean) / self._std).contiguous(memory_format=torch.channels_last)


def _recolour(images: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = (factors[:, number].view(-1, 1, 1, 1) for number in range(3))
    images = images * brightness
    weights = torch.tensor(_GREY).view(1, 3, 1, 1)
    grey = (images * weights).sum(dim=1, keepdim=True)
    images = torch.lerp(grey.mean(dim=(2, 3), keepdim=True).expand_as(images), images, contrast)
    grey = (images * weights).sum(dim=1, keepdim=True)
    return torch.lerp(grey.expand_as(images), images, saturation).clamp(0, 1)


@dataclasses.dataclass(slots=True)
class Spent:
    """Wall and CPU seconds of one way."""

    wall: float = 0.0
    cpu: float = 0.0
    start: tuple[float, float] = (0.0, 0.0)

    def __enter__(self) -> None:
        self.start = (time.perf_counter(), time.process_time())

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self.start[0]
        self.cpu += time.process_time() - self.start[1]


def main() -> None:
    """Extract the images and measure."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.data
        if dataset is None:
            num_products = max(arguments.num_images + 1, arguments.num_catalogue)
            dataset = write_sample_catalogue(Path(folder) / "sample", num_products=num_products).catalogue_csv
        _measure(_choose_images(dataset, arguments), arguments)


def _measure(images: Sequence[SnapshotImage], arguments: argparse.Namespace) -> None:
    model, preprocessing = create_model(Architecture(), pretrained=True)
    augmentation = load_preset("head", []).augmentation
    before = OneImageAtATime(model, preprocessing, augmentation)
    options = NetworkOptions("cpu", runtime=arguments.runtime, cache_dir=arguments.cache / "networks")
    opening = Spent()
    with opening:
        network = threaded_network(model, preprocessing, options, len(images))
    print(f"network opened or exported in {opening.wall:.1f} s")
    spent = {"before": Spent(), "now": Spent()}
    num_views, difference = 0, 0.0
    # The first image warms both ways up.
    for number, part in enumerate([images[:1], *_cut(images[1:], arguments.rounds)]):
        if number == 1:
            spent, num_views = {"before": Spent(), "now": Spent()}, 0
        with tempfile.TemporaryDirectory() as folder:
            store = _store(Path(folder), model, preprocessing, augmentation, network)
            with spent["before"]:
                expected = before.compute(part)
            with spent["now"]:
                computed = store.read_or_compute(part, np.ones(len(part), np.bool_))
        rows = computed.take(np.arange(len(expected))).numpy()
        difference = max(difference, float(np.abs(rows - expected).max()))
        num_views += len(rows)
    for name, way in spent.items():
        print(f"{name:7s} {way.wall:7.2f} s  {way.cpu:7.2f} CPU s  {num_views / way.wall:6.1f} views/s")
    now, then = spent["now"], spent["before"]
    print(f"ratio   {now.wall / then.wall:.2f} of the seconds, {now.cpu / then.cpu:.2f} of the CPU seconds")
    if arguments.json:
        write_rows(arguments.json, [Row("features, seconds now / before", now.wall / then.wall, "<= 0.33")])
    print(f"{len(images) - 1} images, {num_views} views; features differ by {difference:.1e} at most")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--num-images", type=int, default=60)
    parser.add_argument("--num-catalogue", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the ratio to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", choices=("onnxruntime", "torch"), default="onnxruntime")
    parser.add_argument("--cache", type=Path, default=Path("akin-data/cache"))
    return parser.parse_args()


def _choose_images(dataset: Path, arguments: argparse.Namespace) -> list[SnapshotImage]:
    """Return images in an order that spreads them, and with them the catalogue images, over the rounds."""
    snapshot = open_training_data(dataset, lambda _done, _total: None)
    examples = [image for image in snapshot.images if image.role == "example" and image.part != "test"]
    catalogue = [image for image in snapshot.images if image.role == "catalogue"]
    random = np.random.default_rng(0)
    chosen = [examples[position] for position in random.permutation(len(examples))[: arguments.num_images + 1]]
    chosen += [catalogue[position] for position in random.permutation(len(catalogue))[: arguments.num_catalogue]]
    return [chosen[0], *(chosen[1 + position] for position in random.permutation(len(chosen) - 1))]


def _cut(images: Sequence[SnapshotImage], num_parts: int) -> list[Sequence[SnapshotImage]]:
    return [images[start::num_parts] for start in range(num_parts)]


def _store(
    folder: Path,
    model: EmbeddingModel,
    preprocessing: Preprocessing,
    augmentation: AugmentationConfig,
    network: ThreadedNetwork | None,
) -> FeatureStore:
    device = torch.device("cpu")
    return FeatureStore(folder, model, preprocessing, augmentation, device, choose_network=lambda _num_views: network)


if __name__ == "__main__":
    main()
