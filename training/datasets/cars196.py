"""Cars196: photos of 196 car models. In metric learning, classes 1 to 98 train and 99 to 196 test.

It is read from the annotations (cars_annos.mat beside car_ims/), or from one folder per class whose name starts with
the class number ("001-AM-General-Hummer-SUV-2000"), for all classes or for one half.
"""

import re
from pathlib import Path

from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from training.datasets.files import IMAGE_ENDINGS, files_below, folders_in, location_below
from training.datasets.folder_names import part_of
from training.datasets.published import CARS_196
from training.datasets.rows import Dataset, LabelledImage, Part, RowError
from training.errors import InvalidDataset

ANNOTATIONS_NAME = "cars_annos.mat"
_NUM_CLASSES, _NUM_TRAIN_CLASSES = 196, 98
_NUMBERED = re.compile(r"(\d{3})(?:[-_. ]+(.+))?")
# The makes at both ends of each half distinguish the data set from a shop that numbers its folders.
_MAKES = {1: "am", 98: "eagle", 99: "fiat", 196: "smart"}
_HALVES = (frozenset(range(1, _NUM_TRAIN_CLASSES + 1)), frozenset(range(_NUM_TRAIN_CLASSES + 1, _NUM_CLASSES + 1)))


def is_annotated_cars196(root: Path) -> bool:
    """Tell whether `root` contains the annotations of Cars196."""
    return (root / ANNOTATIONS_NAME).is_file()


def read_annotated_cars196(root: Path) -> Dataset:
    """Read cars_annos.mat; its field `test` belongs to the classification task and is ignored."""
    path = root / ANNOTATIONS_NAME
    images: list[LabelledImage] = []
    errors: list[RowError] = []
    for number, (image_path, class_id, name) in enumerate(_annotations(path), start=1):
        location = f"{path.name}:{number}"
        if name is None:
            errors.append(RowError(location, f"class {class_id} of {image_path} has no name in class_names"))
            continue
        # Formatted like the folder names, so that both layouts give the same labels.
        label = f"{class_id:03d}-{re.sub(r'[ /]+', '-', name)}"
        images.append(LabelledImage(location, root / image_path, label, "catalogue", _part_of(class_id)))
    return Dataset("Cars196", tuple(images), tuple(errors), CARS_196.differences(images))


def is_foldered_cars196(root: Path) -> bool:
    """Tell whether the folders in `root` are the classes of Cars196 or of one half."""
    folders, _ = _class_folders(root)
    if len(folders) not in (_NUM_CLASSES, _NUM_TRAIN_CLASSES):
        return False
    matches = [_NUMBERED.fullmatch(folder.name) for folder in folders]
    names = {int(match[1]): (match[2] or "").lower() for match in matches if match}
    halves = [half for half in _HALVES if half <= names.keys()]
    if not halves or len(names) != len(folders) or names.keys() != frozenset().union(*halves):
        return False
    if not any(names.values()):
        # Folders with numbers alone are recognised by the number of images.
        return len(_images_below(root)) in (CARS_196.num_images, *(images for images, _ in CARS_196.parts.values()))
    return all(name.startswith(_MAKES.get(number, "")) for number, name in names.items())


def read_foldered_cars196(root: Path) -> Dataset:
    """Read the images in the class folders; the folder name is the label."""
    depth = 1 if _class_folders(root)[1] else 0
    images: list[LabelledImage] = []
    errors: list[RowError] = []
    for file in _images_below(root):
        folders = file.relative_to(root).parts[:-1]
        match = _NUMBERED.fullmatch(folders[depth]) if len(folders) == depth + 1 else None
        location = location_below(file, root)
        if match is None:
            errors.append(RowError(location, "the image lies in no class's folder; move it into one"))
        else:
            images.append(LabelledImage(location, file, folders[depth], "catalogue", _part_of(int(match[1]))))
    return Dataset("Cars196 in folders", tuple(images), tuple(errors), CARS_196.differences(images))


def _class_folders(root: Path) -> tuple[list[Path], bool]:
    """Return the folders at the level of the classes, and whether they are inside folders of parts."""
    folders = folders_in(root)
    parts = [part_of(folder.name) for folder in folders]
    if not {"train", "test"} & set(parts) or "" in parts or not all(map(folders_in, folders)):
        return folders, False
    return [inner for folder in folders for inner in folders_in(folder)], True


def _part_of(class_id: int) -> Part:
    return "train" if class_id <= _NUM_TRAIN_CLASSES else "test"


def _images_below(root: Path) -> list[Path]:
    return [file for file in files_below(root) if file.suffix.lower() in IMAGE_ENDINGS]


def _annotations(path: Path) -> list[tuple[str, int, str | None]]:
    """Return (image path, class number, class name) of each annotation."""
    try:
        contents = loadmat(path, squeeze_me=True, chars_as_strings=True)
        names = [str(name) for name in contents["class_names"].reshape(-1)]
        rows = contents["annotations"].reshape(-1)
        found = [(str(row["relative_im_path"]), int(row["class"])) for row in rows]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, MatReadError) as error:
        raise InvalidDataset(f"{path} cannot be read as the annotations of Cars196: {error}") from error
    return [
        (image_path, class_id, names[class_id - 1] if 1 <= class_id <= len(names) else None)
        for image_path, class_id in found
    ]
