"""CUB200-2011: birds of 200 species. In metric learning, classes 1 to 100 train and 101 to 200 test."""

from pathlib import Path

from training.datasets.files import numbered_lines, short
from training.datasets.published import CUB_200_2011
from training.datasets.rows import Dataset, LabelledImage, Part, RowError

_NUM_TRAIN_CLASSES = 100


def is_cub(root: Path) -> bool:
    """Tell whether `root` contains the lists of CUB200-2011."""
    return all((root / name).is_file() for name in ("images.txt", "image_class_labels.txt", "classes.txt"))


def read_cub(root: Path) -> Dataset:
    """Read images.txt with the class of each image; the archive's train/test list is for classification."""
    errors: list[RowError] = []
    class_names = {class_id: name for _, class_id, name in _pairs(root / "classes.txt", errors)}
    class_ids = {image_id: class_id for _, image_id, class_id in _pairs(root / "image_class_labels.txt", errors)}
    images: list[LabelledImage] = []
    for location, image_id, image_path in _pairs(root / "images.txt", errors):
        class_id = class_ids.get(image_id)
        if class_id is None or class_id not in class_names or not class_id.isdecimal():
            errors.append(RowError(location, f"image {image_id} has no class that classes.txt names: {class_id!r}"))
            continue
        part: Part = "train" if int(class_id) <= _NUM_TRAIN_CLASSES else "test"
        path = root / "images" / image_path
        images.append(LabelledImage(location, path, class_names[class_id], "catalogue", part))
    return Dataset("CUB200-2011", tuple(images), tuple(errors), CUB_200_2011.differences(images))


def _pairs(path: Path, errors: list[RowError]) -> list[tuple[str, str, str]]:
    """Return (location, number, text) of each line of a list."""
    pairs = []
    for line_number, line in numbered_lines(path):
        location = f"{path.name}:{line_number}"
        number, _, text = line.strip().partition(" ")
        if text.strip():
            pairs.append((location, number, text.strip()))
        else:
            errors.append(RowError(location, f"a number and a text are needed, got {short(line)}"))
    return pairs
