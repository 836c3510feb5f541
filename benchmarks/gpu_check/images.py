"""The images for fine-tuning: a part of a data set, or synthetic ones."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.datasets.reading import read_dataset
from training.errors import InvalidDataset

# Share of the classes that is held out and measured.
_UNSEEN_SHARE = 1 / 3
_MIN_IMAGES = 4
_MAX_IMAGES_PER_CLASS = 30


def choose_images(data: Path, folder: Path, max_images: int) -> tuple[Path, str]:
    """Write a manifest of about `max_images` images of `data`, with a third of the classes held out as unseen.

    Returns the path of the manifest and a description. Raises InvalidDataset if fewer than six classes have four
    images.
    """
    dataset = read_dataset(data)
    paths: dict[str, list[Path]] = defaultdict(list)
    for image in dataset.images:
        paths[image.label].append(image.path)
    labels = sorted(label for label, found in paths.items() if len(found) >= _MIN_IMAGES)
    if len(labels) < 6:
        raise InvalidDataset(
            f"{data} has {len(labels)} classes with {_MIN_IMAGES} or more images; give a folder with at least 6"
        )
    generator = np.random.default_rng(0)
    chosen: dict[str, list[Path]] = {}
    num_images = 0
    for number in generator.permutation(len(labels)):
        found = paths[labels[number]]
        chosen[labels[number]] = [found[i] for i in generator.permutation(len(found))[:_MAX_IMAGES_PER_CLASS]]
        num_images += len(chosen[labels[number]])
        if num_images >= max_images and len(chosen) >= 6:
            break
    num_unseen = max(2, round(_UNSEEN_SHARE * len(chosen)))
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label", "split"])
        for number, (label, found) in enumerate(chosen.items()):
            split = "test" if number < num_unseen else "train"
            rows.writerows([str(path), label, split] for path in found)
    return manifest, (
        f"{data.name}: {num_images:,} images of {len(chosen)} classes (of {len(dataset.images):,} of "
        f"{len(paths)}), {num_unseen} classes unseen"
    )


def draw_images(folder: Path, *, num_classes: int, images_per_class: int, size: int) -> Path:
    """Draw a folder per class: the strokes of a class vary in colour, position and shape, and are partly covered."""
    generator = np.random.default_rng(0)
    for class_id in range(num_classes):
        strokes = generator.uniform(0.2, 0.8, (4, 3, 2))
        directory = folder / f"class-{class_id:03d}"
        directory.mkdir(parents=True)
        for number in range(images_per_class):
            _draw(strokes, generator, size).save(directory / f"{number:03d}.png")
    return folder


def _draw(strokes: np.ndarray, generator: np.random.Generator, size: int) -> Image.Image:
    background, *colours = (tuple(colour) for colour in generator.integers(0, 256, (6, 3)).tolist())
    image = Image.new("RGB", (size, size), background)
    draw = ImageDraw.Draw(image)
    moved = strokes + generator.normal(0, 0.04, strokes.shape) + generator.uniform(-0.12, 0.12, 2)
    for points, colour in zip(moved * size, colours, strict=False):
        draw.line([tuple(point) for point in points.tolist()], fill=colour, width=max(2, size // 16))
    x, y = generator.uniform(0, 0.7 * size, 2).tolist()
    draw.ellipse((x, y, x + 0.25 * size, y + 0.25 * size), fill=colours[-1])
    return image
