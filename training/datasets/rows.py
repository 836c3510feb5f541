"""The common result of all readers: one row per labelled image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Searches return catalogue images; examples are labelled photos for training and evaluation only.
Role = Literal["catalogue", "example"]
# The part stated by the data set; "" if it states none.
Part = Literal["train", "validation", "test", ""]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and its class; the file has not been opened."""

    location: str  # for messages: "manifest.csv:12", or the path below the root
    path: Path
    label: str
    role: Role = "catalogue"
    part: Part = ""


@dataclass(frozen=True, slots=True)
class RowError:
    """A row or file that was skipped, and why."""

    location: str
    message: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that is not part of the source, and why."""

    location: str
    reason: str
    is_failure: bool = True  # an image, or something that may be one


@dataclass(frozen=True, slots=True)
class Dataset:
    """All labelled images below a path in a stable order, with errors and notes."""

    layout: str
    images: tuple[LabelledImage, ...]
    errors: tuple[RowError, ...] = ()
    notes: tuple[str, ...] = ()
    understood: str = ""  # one line for the user
