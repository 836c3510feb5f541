"""Small trees of the published data sets, and images to put into them."""

from pathlib import Path

from tests.images import encode, scene
from training.data.snapshot import Snapshot, take_snapshot
from training.datasets.rows import Dataset, LabelledImage


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a text file, with the folders around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def draw(path: Path, seed: int = 0) -> Path:
    """Write a small image of its own for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(scene(seed, (128, 96)), "JPEG" if path.suffix == ".jpg" else "PNG"))
    return path


def text_snapshot(folder: Path, rows) -> Snapshot:
    """Take a snapshot of files that are no images: what a split needs, quickly.

    `rows` are (content, label), with role and part after them where they are not the defaults.
    """
    images = []
    for number, (content, label, *rest) in enumerate(rows):
        path = write(folder / f"{number}.txt", content)
        images.append(LabelledImage(f"row {number}", path, label, *rest))
    return take_snapshot(Dataset("made", tuple(images)))
