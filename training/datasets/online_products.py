"""Stanford Online Products: photos of 22,634 eBay products, with one list for training and one for the test."""

from pathlib import Path

from training.datasets.files import numbered_lines, short
from training.datasets.published import STANFORD_ONLINE_PRODUCTS
from training.datasets.rows import Dataset, LabelledImage, Part, RowError

_LISTS: tuple[tuple[str, Part], ...] = (("Ebay_train.txt", "train"), ("Ebay_test.txt", "test"))


def is_online_products(root: Path) -> bool:
    """Tell whether `root` contains the lists of Stanford Online Products."""
    return all((root / name).is_file() for name, _ in _LISTS)


def read_online_products(root: Path) -> Dataset:
    """Read both lists; each line is `image_id class_id super_class_id path`, after a header line."""
    images: list[LabelledImage] = []
    errors: list[RowError] = []
    for name, part in _LISTS:
        for line_number, line in numbered_lines(root / name):
            fields = line.split(maxsplit=3)
            if fields[0] == "image_id":
                continue
            location = f"{name}:{line_number}"
            if len(fields) != 4 or not fields[1].isdecimal():
                needed = "image_id class_id super_class_id path"
                errors.append(RowError(location, f"expected {needed}, got {short(line)}"))
            else:
                images.append(LabelledImage(location, root / fields[3].strip(), fields[1], "catalogue", part))
    notes = STANFORD_ONLINE_PRODUCTS.differences(images)
    return Dataset("Stanford Online Products", tuple(images), tuple(errors), notes)
