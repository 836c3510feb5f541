"""The metrics by which models are compared on an evaluation set, one value per query."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

PrimaryMetric = Literal["mean_of_parts_recall_at_1", "seen_recall_at_1", "unseen_recall_at_1"]

KS = (1, 2, 4, 8, 10)
METRICS = (*(f"recall_at_{k}" for k in KS), "r_precision", "map_at_r")


def metric_of_queries(
    name: str,
    first_hit_rank: NDArray[np.int64],
    r_precision: NDArray[np.float64],
    map_at_r: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the metric of each query [Q]; all queries must have a relevant image."""
    if name == "r_precision":
        return r_precision
    if name == "map_at_r":
        return map_at_r
    return (first_hit_rank <= int(name.removeprefix("recall_at_"))).astype(np.float64)
