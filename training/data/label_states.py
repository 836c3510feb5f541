"""What becomes of each labelled image: whether it trains, or is held out for validation or the test."""

from typing import Literal

from training.data.snapshot import Snapshot
from training.data.splits import SplitConfig, held_out_masks

LabelState = Literal["train", "validation", "test"]


def held_out_states(snapshot: Snapshot, config: SplitConfig) -> list[LabelState]:
    """Return the part of each image, in the order of `snapshot.images`.

    A catalogue too small to train on has states too. An image of "train" may still wait for its class to have two.
    """
    masks = held_out_masks(snapshot, config)
    return [
        "test" if is_test else "validation" if is_validation else "train"
        for is_test, is_validation in zip(masks.is_test.tolist(), masks.is_validation.tolist(), strict=True)
    ]
