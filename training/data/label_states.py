"""The part of each labelled image: training, validation or test."""

from typing import Literal

from training.data.snapshot import Snapshot
from training.data.splits import SplitConfig, held_out_masks

LabelState = Literal["train", "validation", "test"]


def held_out_states(snapshot: Snapshot, config: SplitConfig) -> list[LabelState]:
    """Return the part of each image, in the order of `snapshot.images`.

    This also works for a catalogue that is too small to train on. An image in "train" is not used until its class has
    two images.
    """
    masks = held_out_masks(snapshot, config)
    return [
        "test" if is_test else "validation" if is_validation else "train"
        for is_test, is_validation in zip(masks.is_test.tolist(), masks.is_validation.tolist(), strict=True)
    ]
