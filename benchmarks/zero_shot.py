"""Zero-shot recall on real images, before any training.

    python benchmarks/zero_shot.py --data FOLDER [--only grocery|cars196]

FOLDER contains grocery.zip and cars196-test.zip (by default ../shared/data beside the checkout, whose README.md states
the published figures). Prints each measured figure with the published one, and exits with status 1 if they differ by
more than 0.02.
"""

import argparse
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedding.bulk import embed_images
from embedding.embedder import Embedder
from embedding.model import Architecture, create_model

TOLERANCE = 0.02
GROCERY = "GroceryStoreDataset/dataset/"
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--only", choices=("grocery", "cars196"))
    arguments = parser.parse_args()
    model, preprocessing = create_model(Architecture(), pretrained=True)
    embedder = Embedder(model, preprocessing)
    print(f"{'figure':44s} {'here':>7s} {'stated':>7s}")
    good = True
    for name, measure in (("grocery", measure_grocery), ("cars196", measure_cars)):
        if arguments.only in (None, name):
            start = time.perf_counter()
            for figure, value, stated in measure(embedder, arguments.data):
                good &= abs(value - stated) <= TOLERANCE
                print(f"{figure:44s} {value:7.3f} {stated:7.3f}")
            print(f"  {time.perf_counter() - start:.0f} s on {embedder.device}")
    sys.exit(0 if good else f"a figure is off by more than {TOLERANCE}")


def measure_grocery(embedder: Embedder, data: Path) -> Iterator[tuple[str, float, float]]:
    with zipfile.ZipFile(data / "grocery.zip") as archive:
        photos = embed_members(embedder, archive, grocery_list(archive, "test.txt"))
        iconic = embed_members(embedder, archive, grocery_iconic(archive))
    yield "Grocery test photo to photo, recall@1", recall(photos, photos, 1, same=True), 0.953
    yield "Grocery test photo to iconic, recall@1", recall(photos, iconic, 1), 0.275
    yield "Grocery test photo to iconic, recall@10", recall(photos, iconic, 10), 0.791


def measure_cars(embedder: Embedder, data: Path) -> Iterator[tuple[str, float, float]]:
    with zipfile.ZipFile(data / "cars196-test.zip") as archive:
        members = [(name, int(Path(name).parent.name.partition("-")[0])) for name in images(archive)]
        cars = embed_members(embedder, archive, members)
    yield "Cars196 test half, recall@1", recall(cars, cars, 1, same=True), 0.591
    yield "Cars196 test half, recall@8", recall(cars, cars, 8, same=True), 0.881


def images(archive: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".png", ".webp")))


def grocery_list(archive: zipfile.ZipFile, name: str) -> list[tuple[str, int]]:
    lines = archive.read(GROCERY + name).decode().splitlines()
    return [(GROCERY + line.split(",")[0].strip(), int(line.split(",")[1])) for line in lines if line.strip()]


def grocery_iconic(archive: zipfile.ZipFile) -> list[tuple[str, int]]:
    lines = archive.read(GROCERY + "classes.csv").decode().splitlines()[1:]
    return [(GROCERY + line.split(",")[4].lstrip("/"), int(line.split(",")[1])) for line in lines]


def embed_members(embedder: Embedder, archive: zipfile.ZipFile, members: list[tuple[str, int]]) -> Labelled:
    """Embed images of an archive with the code that indexing uses."""
    parts = []
    for batch in embed_images([name for name, _ in members], archive.read, embedder):
        assert not batch.failures, batch.failures
        parts.append(batch.embeddings)
    return np.concatenate(parts), np.array([label for _, label in members])


def recall(queries: Labelled, gallery: Labelled, k: int, *, same: bool = False) -> float:
    """Return the share of queries with an image of their label among the k nearest, excluding themselves if `same`."""
    hits = 0
    for start in range(0, len(queries[0]), 1024):
        scores = queries[0][start : start + 1024] @ gallery[0].T
        if same:
            scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf
        nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        hits += int((gallery[1][nearest] == queries[1][start : start + 1024, None]).any(axis=1).sum())
    return hits / len(queries[0])


if __name__ == "__main__":
    main()
