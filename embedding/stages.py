"""What the stages of bulk embedding have done, and how fast each of them could go alone."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["read", "decode", "network", "write"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, slots=True)
class StageWork:
    """Images that left a stage, and the seconds that the stage was busy: the mean over its threads."""

    num_images: int = 0
    busy_seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """The rate while busy, which is what the stage could do if it never waited; 0 if unknown."""
        return self.num_images / self.busy_seconds if self.busy_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StageReport:
    """The work of all stages since the start: the stage with the lowest rate limits the others."""

    read: StageWork = StageWork()
    decode: StageWork = StageWork()
    network: StageWork = StageWork()
    write: StageWork = StageWork()

    def __getitem__(self, stage: Stage) -> StageWork:
        """Return the work of one stage."""
        work: StageWork = getattr(self, stage)
        return work

    def __sub__(self, earlier: "StageReport") -> "StageReport":
        """Return the work since an earlier report of the same run."""
        return StageReport(
            *(
                StageWork(
                    self[stage].num_images - earlier[stage].num_images,
                    self[stage].busy_seconds - earlier[stage].busy_seconds,
                )
                for stage in STAGES
            )
        )

    def __str__(self) -> str:
        """Return the rates in words; stages without work are omitted."""
        return describe_rates(self.rates())

    def rates(self) -> dict[str, float]:
        """Return the images per second of each stage that has done any, in the order of the stages."""
        return {stage: self[stage].images_per_second for stage in STAGES if self[stage].images_per_second}


def describe_rates(rates: Mapping[str, float]) -> str:
    """Return the images per second of each stage in words: "read 410/s  decode 160/s"."""
    return "  ".join(f"{stage} {rate:,.{0 if rate >= 10 else 1}f}/s" for stage, rate in rates.items())


class StageTimes:
    """Adds up the work of the threads of each stage; the caller holds a lock while it adds."""

    def __init__(self, num_threads: dict[Stage, int]) -> None:
        self._num_threads = num_threads
        self._num_images = dict.fromkeys(STAGES, 0)
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: Stage, num_images: int, seconds: float) -> None:
        """Add what one thread of a stage has done."""
        self._num_images[stage] += num_images
        self._seconds[stage] += seconds

    def report(self) -> StageReport:
        """Return the work so far."""
        return StageReport(
            *(StageWork(self._num_images[stage], self._seconds[stage] / self._num_threads[stage]) for stage in STAGES)
        )


class Timer:
    """Seconds that a block took."""

    seconds = 0.0


@contextmanager
def timed() -> Iterator[Timer]:
    """Measure a block, also one that raises."""
    timer, start = Timer(), time.perf_counter()
    try:
        yield timer
    finally:
        timer.seconds = time.perf_counter() - start
