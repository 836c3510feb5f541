"""How many images one run of the network takes, and when a run waits for images that are being decoded.

Both follow from what runs of the network cost, which is measured (`service.serving.calibration`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# A run never waits longer for images than this.
MAX_WAIT_SECONDS = 0.010
# A batch that saves less per image is not worth the delay of its first image.
_WORTHWHILE = 0.05


@dataclass(frozen=True, slots=True)
class BatchCosts:
    """What runs of a network cost; `seconds` maps numbers of images, 1 among them, to the seconds of one run.

    `best` is the number of images that a run takes at most: the smallest whose cost per image is about the lowest.
    """

    best: int
    seconds: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def measured(cls, seconds: Mapping[int, float]) -> "BatchCosts":
        """Return the costs after measuring runs of these sizes, at least of one image."""
        rising: dict[int, float] = {}
        least = float("inf")
        # A larger batch takes no less time; where it seems to, the smaller one was disturbed.
        for size in sorted(seconds, reverse=True):
            rising[size] = least = min(least, seconds[size])
        lowest = min(spent / size for size, spent in rising.items())
        best = min(size for size, spent in rising.items() if spent / size <= lowest * (1 + _WORTHWHILE))
        return cls(best, dict(sorted(rising.items())))

    @classmethod
    def unmeasured(cls, batch_size: int) -> "BatchCosts":
        """Return costs with which runs take up to `batch_size` images, and never wait for any."""
        return cls(batch_size)

    def run_seconds(self, num_images: int) -> float:
        """Return the expected seconds of embedding so many images, linear between the sizes that were measured."""
        if not self.seconds or num_images <= 0:
            return 0.0
        num_full, rest = divmod(num_images, self.best)
        return num_full * self.seconds[self.best] + (self._interpolated(rest) if rest else 0.0)

    def _interpolated(self, num_images: int) -> float:
        """Return the seconds of one run of fewer images than the best size."""
        below = max(size for size in self.seconds if size <= num_images)
        above = min(size for size in self.seconds if size >= num_images)
        if below == above:
            return self.seconds[below]
        share = (num_images - below) / (above - below)
        return self.seconds[below] + share * (self.seconds[above] - self.seconds[below])


def worthwhile_wait(costs: BatchCosts, num_waiting: int, arrivals: Sequence[float]) -> float:
    """Return for how many seconds a run of the images that wait should be delayed; 0: it should start.

    `arrivals` are the expected seconds until the images that are being decoded will have arrived, ascending. The choice
    minimises the mean time until all these images are embedded: those that come too late for this run have another one.
    Without such images, as for a client that searches alone, there is nothing to wait for.
    """
    if not arrivals or not costs.seconds:
        return 0.0
    best_wait, least_total = 0.0, float("inf")
    for num_more in range(min(len(arrivals), max(costs.best - num_waiting, 0)) + 1):
        wait = arrivals[num_more - 1] if num_more else 0.0
        if wait > MAX_WAIT_SECONDS:
            break
        num_first, num_later = num_waiting + num_more, len(arrivals) - num_more
        end = wait + costs.run_seconds(num_first)
        total = num_first * end
        while num_later > 0:
            # Simplified: later runs start once the last image has arrived.
            num_next = min(num_later, costs.best)
            end = max(end, arrivals[-1]) + costs.run_seconds(num_next)
            total += num_next * end
            num_later -= num_next
        if total < least_total:
            best_wait, least_total = wait, total
    return best_wait
