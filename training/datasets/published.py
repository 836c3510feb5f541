"""The published numbers of images and classes, by which incomplete copies are noticed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from training.datasets.rows import LabelledImage, Part

_PART_NAMES: Mapping[Part, str] = {"train": "train", "validation": "validation", "test": "test", "": "catalogue"}


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """(images, classes) of each part, as reported in papers."""

    name: str
    parts: Mapping[Part, tuple[int, int]]

    @property
    def num_images(self) -> int:
        """The number of all images."""
        return sum(num_images for num_images, _ in self.parts.values())

    def differences(self, images: Iterable[LabelledImage]) -> tuple[str, ...]:
        """Describe, in one line per part, where the numbers of `images` differ from the published ones."""
        found: dict[Part, list[str]] = {part: [] for part in self.parts}
        for image in images:
            found.setdefault(image.part, []).append(image.label)
        notes = []
        for part, labels in found.items():
            expected, here = self.parts.get(part, (0, 0)), (len(labels), len(set(labels)))
            if here != expected:
                notes.append(
                    f"{self.name} as published has {expected[0]:,} {_PART_NAMES[part]} images of {expected[1]:,} "
                    f"classes; here are {here[0]:,} of {here[1]:,}, so metrics are not comparable with papers"
                )
        return tuple(notes)


CUB_200_2011 = PublishedCounts("CUB200-2011", {"train": (5_864, 100), "test": (5_924, 100)})
CARS_196 = PublishedCounts("Cars196", {"train": (8_054, 98), "test": (8_131, 98)})
STANFORD_ONLINE_PRODUCTS = PublishedCounts(
    "Stanford Online Products", {"train": (59_551, 11_318), "test": (60_502, 11_316)}
)
GROCERY_STORE = PublishedCounts(
    "GroceryStoreDataset", {"train": (2_640, 81), "validation": (296, 60), "test": (2_485, 81), "": (81, 81)}
)
