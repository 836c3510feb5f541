"""Hard class mining: classes with close representatives (docs/method.md §5; how often and how many is our choice).

Shape legend: C classes, P classes of a batch, S seeds, D embedding dimension, K candidates per seed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class NearestClasses:
    """The classes nearest to each seed [S, K], possibly still being copied from the device."""

    classes: Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> NDArray[np.int64]:
        """Wait for the copy and return the nearest classes, nearest first."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.classes.numpy()


class RepresentativeTable:
    """The latest embedding of each class's representative, and the step at which it was written.

    It is refreshed from each batch at no extra cost and stays on its device. Which rows are filled and how old they
    are is also kept on the host, so that nothing waits for the device.
    """

    def __init__(self, num_classes: int, embedding_dim: int, device: torch.device) -> None:
        self.embeddings_CD = torch.zeros(num_classes, embedding_dim, device=device)
        # Added to the scores, so that an empty row is never among the nearest.
        self._penalty_C = torch.full((num_classes,), -torch.inf, device=device)
        self._written_at_C = np.full(num_classes, -1, np.int64)
        self._num_filled = 0

    @property
    def filled_share(self) -> float:
        """Share of the classes with a filled row, within 0..1."""
        return self._num_filled / len(self._written_at_C)

    def is_filled(self, class_id: int) -> bool:
        """Tell whether a class has a filled row."""
        return bool(self._written_at_C[class_id] >= 0)

    def refresh(self, classes: NDArray[np.int64], embeddings_PD: Tensor, step: int) -> None:
        """Write the rows of `classes`, which are distinct."""
        rows_P = torch.from_numpy(classes).to(self.embeddings_CD.device, non_blocking=True)
        self.embeddings_CD.index_copy_(0, rows_P, embeddings_PD.detach().float())
        self._penalty_C.index_fill_(0, rows_P, 0.0)
        self._num_filled += int((self._written_at_C[classes] < 0).sum())
        self._written_at_C[classes] = step

    def request_nearest(self, seeds: NDArray[np.int64], num_candidates: int) -> NearestClasses:
        """Find the `num_candidates` classes nearest to each seed other than itself; O(S × C), never C × C."""
        device = self.embeddings_CD.device
        seeds_S = torch.from_numpy(seeds).to(device, non_blocking=True)
        scores_SC = torch.addmm(self._penalty_C, self.embeddings_CD[seeds_S], self.embeddings_CD.T)
        scores_SC.scatter_(1, seeds_S[:, None], -torch.inf)
        nearest_SK = scores_SC.topk(min(num_candidates, scores_SC.shape[1]), dim=1).indices
        if device.type != "cuda":
            return NearestClasses(nearest_SK, None)
        on_host = torch.empty(nearest_SK.shape, dtype=torch.int64, pin_memory=True)
        on_host.copy_(nearest_SK, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch has no types here
        arrived.record(torch.cuda.current_stream(device))
        return NearestClasses(on_host, arrived)

    def state(self) -> dict[str, Any]:
        """Return the table for a resumed run."""
        return {
            "embeddings": self.embeddings_CD.detach().cpu().clone(),
            "written_at": torch.from_numpy(self._written_at_C.copy()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a stored state."""
        self.embeddings_CD.copy_(state["embeddings"])
        self._written_at_C[:] = state["written_at"].numpy()
        is_filled = self._written_at_C >= 0
        self._num_filled = int(is_filled.sum())
        penalty = np.where(is_filled, 0.0, -np.inf).astype(np.float32)
        self._penalty_C.copy_(torch.from_numpy(penalty))


def choose_classes(
    seeds: list[int], nearest_SK: NDArray[np.int64], num_classes: int, table: RepresentativeTable
) -> list[int]:
    """Fill a batch of `num_classes`: the seeds take turns adding their nearest class that is not in it yet.

    The batch stays smaller if no seed has a candidate left; the caller adds further seeds.
    """
    chosen = list(seeds)
    in_batch = set(seeds)
    queues = [iter(row.tolist()) for row in nearest_SK]
    while queues and len(chosen) < num_classes:
        remaining = []
        for queue in queues:
            taken = next((c for c in queue if c not in in_batch and table.is_filled(c)), None)
            if taken is None:
                continue
            chosen.append(taken)
            in_batch.add(taken)
            remaining.append(queue)
            if len(chosen) == num_classes:
                break
        queues = remaining
    return chosen
