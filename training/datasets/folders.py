"""Folder per class: an image's class is the path of its folder below the root.

    CLASS/x.jpg                     a catalogue image of CLASS
    CLASS/example/x.jpg             an example of CLASS, like everything in folders below `example`
    Greek/character01/0001.png      an image of the class "Greek/character01"
    train/CLASS/x.jpg               if the root contains only train, val and test, these are parts

The rule depends on one path only, so adding images or folders never renames an existing class.
"""

from collections.abc import Sequence
from pathlib import Path

from training.datasets.files import (
    IMAGE_ENDINGS,
    UNREAD_IMAGE_ENDINGS,
    files_below,
    first_example_folder,
    folders_in,
    location_below,
)
from training.datasets.manifests import PART_NAMES, checked_label
from training.datasets.rows import Dataset, LabelledImage, Part, RowError
from training.errors import InvalidDataset

_MAX_NAMED = 3


def read_folders(path: Path) -> Dataset:
    """Read the images below `path`; raises InvalidDataset if none is in a folder."""
    has_parts = _states_parts(path)
    images: list[LabelledImage] = []
    errors: list[RowError] = []
    for file in files_below(path):
        ending = file.suffix.lower()
        location = location_below(file, path)
        if ending in UNREAD_IMAGE_ENDINGS:
            errors.append(RowError(location, f"{ending} images are not read; save it as JPEG, PNG or WebP"))
        elif ending in IMAGE_ENDINGS:
            try:
                images.append(_image_of(file, path, location, has_parts))
            except ValueError as error:
                errors.append(RowError(location, str(error)))
    if not images:
        why = f"; {errors[0].location}: {errors[0].message}" if errors else ""
        raise InvalidDataset(
            f"{path} has no images in folders{why}; expected a folder per class, a catalogue.csv, manifest.csv or "
            "the same as .ndjson, or the files of CUB200-2011, Cars196, Stanford Online Products or GroceryStoreDataset"
        )
    return Dataset("folder per class", tuple(images), tuple(errors), _notes_of(images, has_parts))


def class_folders(path: Path) -> tuple[list[Path], bool]:
    """Return the folders at the level of the classes, and whether they are inside folders of parts."""
    folders = folders_in(path)
    if not _states_parts(path):
        return folders, False
    return [inner for folder in folders for inner in folders_in(folder)], True


def _states_parts(path: Path) -> bool:
    """Tell whether the root contains only train, val or test folders, each with folders in it."""
    parts = [PART_NAMES.get(folder.name.lower()) for folder in folders_in(path)]
    if "train" not in parts and "test" not in parts:
        return False
    return None not in parts and all(folders_in(folder) for folder in folders_in(path))


def _image_of(file: Path, root: Path, location: str, has_parts: bool) -> LabelledImage:
    folders = file.relative_to(root).parts[:-1]
    part: Part = ""
    if has_parts and folders:
        part, folders = PART_NAMES[folders[0].lower()], folders[1:]
    if not folders:
        raise ValueError("the image lies in no class's folder; move it into one")
    example = first_example_folder(folders)
    label = checked_label("/".join(folders[:example]), "folder's name")
    return LabelledImage(location, file, label, "catalogue" if example is None else "example", part)


def _notes_of(images: Sequence[LabelledImage], has_parts: bool) -> tuple[str, ...]:
    labels = {image.label for image in images}
    around = {label.rpartition("/")[0] for label in labels} & labels
    tops = {label.partition("/")[0] for label in labels}
    notes = []
    if len(tops) == 1 and len(labels) > 1:
        notes.append(
            f"the folder {tops.pop()!r} lies around all classes and is part of their labels; give that folder itself "
            "as the path to keep its name out of the labels"
        )
    if has_parts:
        notes.append("the folders train, val and test are taken as parts of the data set, not as classes")
    parts = sorted(top for top in tops if top.lower() in ("train", "test"))
    if parts and not has_parts:
        notes.append(
            f"the folders {' and '.join(map(repr, parts))} are next to other folders and therefore part of the labels, "
            "so that a class in both counts as two; move the other folders elsewhere, or write a CSV file with the "
            "columns image, label and split"
        )
    if around:
        named = ", ".join(repr(label) for label in sorted(around)[:_MAX_NAMED])
        notes.append(
            f"{len(around):,} folders contain images and also folders with images, and each is a separate class: "
            f"{named}; move the images of one class into one folder if that is not intended"
        )
    return tuple(notes)
