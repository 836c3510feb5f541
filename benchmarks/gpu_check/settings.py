"""The settings of a check, and the rows of its report."""

from dataclasses import dataclass
from pathlib import Path

Figure = float | int | str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a measure of a part of the check, with its unit if it has one."""

    part: str
    measure: str
    value: Figure
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a check; zero is replaced by a default for the device.

    Args:
        work: Folder for images, caches and runs.
        data: Labelled images in any layout that training reads; None draws synthetic ones.
        weights: Weights of EfficientNet-Lite0 (.pth or .safetensors); None uses the installed ones, or random ones.
        image_size: Side in pixels; by default that of the backbone, on a CPU at most 96.
        classes_per_batch: By default 16 on CUDA and 8 on a CPU.
        steps: Training steps of each fine-tuning run; by default as many as fit in the time, at most 300.
        max_images: Approximate number of images of `data` that are used.
    """

    work: Path
    device: str = "cuda"
    data: Path | None = None
    weights: Path | None = None
    network: str = "efficientnet_lite0"
    image_size: int = 0
    classes_per_batch: int = 0
    images_per_class: int = 4
    seeds: int = 3
    steps: int = 0
    max_images: int = 3000

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    @property
    def num_classes_per_batch(self) -> int:
        """Classes in a batch."""
        return self.classes_per_batch or (16 if self.is_cuda else 8)

    def pixels_for(self, own_size: int) -> int:
        """Return the side of the images in pixels for a backbone whose default is `own_size`."""
        return self.image_size or (own_size if self.is_cuda else min(own_size, 96))
