"""Prepare a run: read a snapshot, split it, check the images and create the inputs of the network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from embedding.embedder import Embedder
from embedding.model import without_head
from embedding.preprocessing import Preprocessing
from embedding.runtimes.options import NetworkOptions, RuntimeName
from training.config import TrainingConfig
from training.data.augmentation import uncropped
from training.data.checks import check_training_data
from training.data.features import Features, FeatureStore
from training.data.image_cache import ImageCache
from training.data.snapshot import Snapshot, class_ids, open_training_data
from training.data.splits import Split, is_held_out_by_hash, leave_out, split_snapshot
from training.datasets.folders import Layout
from training.evaluation.bounds import EvaluationBounds, bounded
from training.evaluation.held_out import Embed
from training.head_start import start_head
from training.inputs import FeatureInputs, ImageInputs, TrainingInputs, embed_cached
from training.running.networks import threaded_network
from training.running.starting_model import StartingModel

# Large enough to recognise near-duplicates.
_THUMBNAILS = Preprocessing(image_size=64, interpolation="bilinear")
# The most features from which a head is initialised; more change little and take memory in float64.
_MOST_FOR_HEAD = 20_000

# Receives the name of the stage, the number of images done and the number of all images.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The images of a run. Positions index `snapshot.images`; class ids number the training classes."""

    snapshot: Snapshot
    split: Split
    train: NDArray[np.int64]  # positions
    labels: NDArray[np.int64]  # class ids of `train`
    class_names: list[str]
    is_catalogue: NDArray[np.bool_]  # of `train`
    notes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes that are trained on."""
        return len(self.class_names)


def read_training_data(
    path: Path,
    config: TrainingConfig,
    preprocessing: Preprocessing,
    *,
    cache_dir: Path,
    on_progress: OnProgress,
    layout: Layout = "auto",
) -> TrainingData:
    """Read, decode, split and check; raises InvalidDataset or UnfitData, whose messages name rows and remedies.

    Unreadable images and near-duplicates of held-out images are excluded from training, which the notes report.
    """
    snapshot = open_training_data(path, lambda done, total: on_progress("Reading", done, total), layout=layout)
    split = split_snapshot(snapshot, config.split)
    # Training the whole network needs these decoded images anyway; frozen features only need thumbnails.
    geometry = preprocessing if config.network.train == "all" else _THUMBNAILS
    decoded = decode_images(snapshot, geometry, cache_dir, on_progress)
    checked = check_training_data(snapshot, split, decoded, lambda done, total: on_progress("Comparing", done, total))
    near_held_out = np.setdiff1d(checked.exclude, checked.unreadable)
    split = leave_out(snapshot, split, from_training=near_held_out, everywhere=checked.unreadable)
    if is_held_out_by_hash(snapshot, config.split):
        split = _bounded(snapshot, split, config.evaluation.bounds)
    labels = [snapshot.images[position].label for position in split.train]
    is_catalogue = np.array([snapshot.images[position].role == "catalogue" for position in split.train])
    num_without = len(set(labels)) - len({label for label, it in zip(labels, is_catalogue, strict=True) if it})
    without = []
    if config.batches.representatives in ("catalogue", "alternate") and num_without:
        without = [f"classes without a catalogue image, represented by their photos in turn: {num_without}"]
    findings = [finding.message for finding in checked.findings]
    notes = [*snapshot.notes, *findings, *split.notes, *without, *_notes_on_measuring(snapshot, split)]
    return TrainingData(
        snapshot, split, split.train, class_ids(labels), sorted(set(labels)), is_catalogue, tuple(dict.fromkeys(notes))
    )


def _bounded(snapshot: Snapshot, split: Split, bounds: EvaluationBounds) -> Split:
    """Return the split with parts that can be measured in bounded time and memory; what is trained on is the same."""
    validation, test = (
        None if part is None else bounded(snapshot, part, bounds) for part in (split.validation, split.test)
    )
    return replace(split, validation=validation, test=test)


def describe_split(data: TrainingData) -> str:
    """Describe in one line what is trained on and what is held out."""
    held_out = []
    for name, part in (("validation", data.split.validation), ("test", data.split.test)):
        if part is None:
            held_out.append(f"no {name} part")
        else:
            num_unseen = int(part.is_unseen.sum())
            held_out.append(f"{name}: {len(part.query):,} queries, {num_unseen:,} of classes not trained on")
    images, classes = len(data.train), data.num_classes
    return f"training on {images:,} images of {classes:,} classes; {'; '.join(held_out)}"


def _notes_on_measuring(snapshot: Snapshot, split: Split) -> list[str]:
    """Note the parts whose metrics are meaningless."""
    notes = []
    for name, part in (("validation", split.validation), ("test", split.test)):
        searched = None if part is None else part.query if part.gallery is None else part.gallery
        if searched is not None and len({snapshot.images[position].label for position in searched}) == 1:
            notes.append(
                f"the gallery of the {name} part has a single class, so every search succeeds and its metrics are "
                "meaningless; add classes, or raise split.unseen_share and split.validation_share"
            )
    return notes


def decode_images(snapshot: Snapshot, geometry: Preprocessing, cache_dir: Path, on_progress: OnProgress) -> ImageCache:
    """Decode the images of a snapshot, or open them from the cache."""
    return ImageCache.build(
        snapshot,
        geometry,
        size=geometry.image_size,
        crop_fraction=geometry.crop_fraction,
        directory=cache_dir / "pictures",
        on_progress=lambda done, total: on_progress("Decoding", done, total),
    )


@dataclass(frozen=True, slots=True)
class Materials:
    """What is computed once from the images: features of a frozen backbone, or decoded images."""

    features: Features | None = None
    images: ImageCache | None = None  # cropped as for the finished model
    squares: ImageCache | None = None  # whole squares, for random crops


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """The inputs of the network, and the embedding function before training (call it before training begins)."""

    inputs: TrainingInputs
    embed_before: Embed


def gather_materials(
    data: TrainingData,
    start: StartingModel,
    config: TrainingConfig,
    *,
    device: torch.device,
    cache_dir: Path,
    on_progress: OnProgress,
    runtime: RuntimeName = "torch",
) -> Materials:
    """Decode images or compute frozen features, or open them from the cache; raises OSError on a full disk.

    `runtime` computes the features. Raises UnsupportedRuntime, and ExportFailed if it is onnxruntime.
    """
    if config.network.train == "head":
        start.model.to(device)
        options = NetworkOptions(str(device), runtime=runtime, cache_dir=cache_dir / "networks")
        backbone = without_head(start.model)
        store = FeatureStore(
            cache_dir / "features",
            start.model,
            start.preprocessing,
            config.augmentation,
            device,
            choose_network=lambda num_views: threaded_network(backbone, start.preprocessing, options, num_views),
        )
        is_trained = np.zeros(len(data.snapshot.images), bool)
        is_trained[data.train] = True
        features = store.read_or_compute(
            data.snapshot.images, is_trained, lambda done, total: on_progress("Computing features", done, total)
        )
        return Materials(features)

    images = decode_images(data.snapshot, start.preprocessing, cache_dir, on_progress)
    square = uncropped(start.preprocessing)
    squares = images
    if square != start.preprocessing:
        squares = decode_images(data.snapshot, square, cache_dir, on_progress)
    return Materials(images=images, squares=squares)


def _start_head(
    data: TrainingData, start: StartingModel, materials: Materials, config: TrainingConfig, embed_pooled: Embed
) -> None:
    """Initialise the head from features of training images, with all their views if they were computed."""
    chosen = np.random.default_rng(config.seed).permutation(len(data.train))
    num_rows = 1 if materials.features is None else materials.features.num_views[data.train[chosen]]
    chosen = chosen[np.cumsum(np.broadcast_to(num_rows, chosen.shape)) <= _MOST_FOR_HEAD]
    positions = data.train[chosen]
    labels, groups = data.labels[chosen], data.is_catalogue[chosen].astype(np.int64)
    if materials.features is None or config.network.head_start == "principal_components":
        all_plain = np.ones(len(positions), np.bool_)
        start_head(start.model, config.network, embed_pooled(positions), labels, groups, all_plain)
        return
    features = materials.features
    counts = features.num_views[positions]
    # The rows of each image's views, and which rows are the images themselves.
    rows = np.concatenate([np.arange(features.offsets[p], features.offsets[p + 1]) for p in positions])
    is_plain = rows == features.offsets[positions].repeat(counts)
    pooled_MC = features.take(rows).numpy()
    start_head(start.model, config.network, pooled_MC, labels.repeat(counts), groups.repeat(counts), is_plain)


def prepare_inputs(
    data: TrainingData,
    start: StartingModel,
    materials: Materials,
    config: TrainingConfig,
    device: torch.device,
    on_progress: OnProgress = lambda _stage, _done, _total: None,
) -> PreparedInputs:
    """Create the inputs from model and materials, and initialise a new head; positions index the snapshot."""
    # Like the Embedder: convolutions are up to 1.7 times as fast in this layout.
    start.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs: TrainingInputs
    if materials.features is not None:
        features = materials.features

        def embed_pooled(images: NDArray[np.int64]) -> NDArray[np.float32]:
            rows: NDArray[np.float32] = features.plain(images).numpy()
            return rows

        plain = config.augmentation.plain
        inputs = FeatureInputs(start.model, features, device, plain=plain)
    else:
        assert materials.images is not None
        assert materials.squares is not None
        cache = materials.images
        headless = Embedder(without_head(start.model), start.preprocessing, NetworkOptions(str(device)))

        def on_embedded(done: int, total: int) -> None:
            on_progress("Embedding", done, total)

        def embed_pooled(images: NDArray[np.int64]) -> NDArray[np.float32]:
            return embed_cached(headless, cache, images, on_embedded)

        inputs = ImageInputs(
            start.model, start.preprocessing, materials.squares, cache, config.augmentation, device, on_embedded
        )
    if start.has_new_head and config.network.head_start != "random":
        _start_head(data, start, materials, config, embed_pooled)
    # A pretrained backbone is measured with its own features, as they are searched before any training.
    return PreparedInputs(inputs, embed_pooled if start.has_new_head and start.is_pretrained else inputs.embed)
