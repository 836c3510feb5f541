"""GroceryStoreDataset in the layout of its repository.

Photos are listed in train.txt, val.txt and test.txt; each of the 81 classes has one iconic
image, which is its catalogue image.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.datasets.files import numbered_lines, open_text, short
from training.datasets.published import GROCERY_STORE
from training.datasets.rows import Dataset, LabelledImage, Part, RowError
from training.errors import InvalidDataset

_PART_FILES: tuple[tuple[str, Part], ...] = (("train.txt", "train"), ("val.txt", "validation"), ("test.txt", "test"))


@dataclass(frozen=True, slots=True)
class GroceryClass:
    """One line of classes.csv."""

    class_id: str
    name: str
    coarse_name: str
    iconic_image: Path


def is_grocery(root: Path) -> bool:
    """Tell whether `root` is the folder `dataset` of the repository."""
    return (root / "classes.csv").is_file() and (root / "train.txt").is_file()


def read_grocery(root: Path) -> Dataset:
    """Read the iconic images as catalogue images and the photos of all parts as examples."""
    classes = read_grocery_classes(root)
    images = [LabelledImage(f"classes.csv:{item.class_id}", item.iconic_image, item.name) for item in classes]
    errors: list[RowError] = []
    for name, part in _PART_FILES:
        if not (root / name).is_file():
            errors.append(RowError(name, "the file is missing; its photos are left out"))
            continue
        for location, photo in read_grocery_photos(root, name, classes):
            if isinstance(photo, ValueError):
                errors.append(RowError(location, str(photo)))
            else:
                images.append(LabelledImage(location, photo[1], photo[0].name, "example", part))
    return Dataset("GroceryStoreDataset", tuple(images), tuple(errors), GROCERY_STORE.differences(images))


def read_grocery_classes(root: Path) -> list[GroceryClass]:
    """Read classes.csv; raises InvalidDataset if it has other columns."""
    classes = []
    with open_text(root / "classes.csv") as file:
        for record in csv.DictReader(file):
            try:
                classes.append(
                    GroceryClass(
                        class_id=record["Class ID (int)"].strip(),
                        name=record["Class Name (str)"],
                        coarse_name=record["Coarse Class Name (str)"],
                        iconic_image=root / record["Iconic Image Path (str)"].lstrip("/"),
                    )
                )
            except (KeyError, AttributeError) as error:
                raise InvalidDataset(f"{root / 'classes.csv'} is not the GroceryStoreDataset's: {error}") from error
    return classes


def read_grocery_photos(
    root: Path, name: str, classes: list[GroceryClass]
) -> Iterator[tuple[str, tuple[GroceryClass, Path] | ValueError]]:
    """Yield (location, (class, photo)) for each line of a .txt file, with an error instead for a bad line."""
    known = {item.class_id: item for item in classes}
    for line_number, line in numbered_lines(root / name):
        image_path, _, class_ids = line.partition(",")
        found = known.get(class_ids.split(",")[0].strip())
        location = f"{name}:{line_number}"
        yield (
            location,
            ValueError(f"unknown class in {short(line)}")
            if found is None
            else (
                found,
                root / image_path.strip(),
            ),
        )
