"""Files, images and snapshots for the tests of data sets."""

from pathlib import Path

from tests.images import encode, scene
from training.data.snapshot import Snapshot, take_snapshot
from training.datasets.rows import Dataset, LabelledImage


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a text file and create its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def draw(path: Path, seed: int = 0) -> Path:
    """Write a small image, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(scene(seed, (128, 96)), "JPEG" if path.suffix == ".jpg" else "PNG"))
    return path


def text_snapshot(folder: Path, rows) -> Snapshot:
    """Take a snapshot of text files, which is enough for a split.

    `rows` are (content, label[, role[, part]]).
    """
    images = []
    for number, (content, label, *rest) in enumerate(rows):
        path = write(folder / f"{number}.txt", content)
        images.append(LabelledImage(f"row {number}", path, label, *rest))
    return take_snapshot(Dataset("made", tuple(images)))
