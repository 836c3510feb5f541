"""What every layout is read into: one row for each labelled image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Catalogue images are what a search returns; examples are labelled photos that only train and evaluate.
Role = Literal["catalogue", "example"]
# What the data set itself states; "" where it says nothing.
Part = Literal["train", "validation", "test", ""]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and its class; nobody has opened the file yet."""

    location: str  # for messages: "manifest.csv:12", or the path below the root
    path: Path
    label: str
    role: Role = "catalogue"
    part: Part = ""


@dataclass(frozen=True, slots=True)
class RowError:
    """A row or file that was left out, and why."""

    location: str
    message: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """All labelled images below a path, in a stable order, with what was odd about them."""

    layout: str
    images: tuple[LabelledImage, ...]
    errors: tuple[RowError, ...] = ()
    notes: tuple[str, ...] = ()
