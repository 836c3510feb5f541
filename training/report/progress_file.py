"""The progress of a run as a small file, for other processes."""

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from training.report.progress import TrainingProgress
from training.report.run_folder import Record, number

_log = logging.getLogger(__name__)

TRAINING = "Training"
_LEAST_SECONDS = 0.5
# The speed is measured over this time, long enough not to jump with each step.
_SPEED_SECONDS = 30.0
# Fields of an evaluation's record that are not metrics.
_NO_METRICS = frozenset({"step", "seconds", "projection", "epoch"})


class ProgressFile:
    """Writes the progress of a run to one JSON file, which is replaced atomically.

    The file contains {"stage", "done", "total", "per_second", "seconds_left", "loss", "validation"}, null if unknown.
    `stage` is "Reading", "Decoding", "Comparing", "Computing features", "Embedding" or "Training"; `validation` has the
    metrics of the last evaluation by name. The file is written at most twice a second, and at the start of each stage
    and the end of the run. A full disk does not end the training: the file then stays as it was.

    The class is a `TrainingProgress` that forwards everything to another one. `is_writer` is called before each write:
    of several processes that train together, one writes.
    """

    def __init__(
        self,
        path: Path,
        inner: TrainingProgress,
        *,
        is_writer: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._inner = inner
        self._is_writer = is_writer
        self._clock = clock
        self._stage = ""
        self._done = self._total = 0
        self._loss: float | None = None
        self._validation: dict[str, float] | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._last_write = -math.inf
        self._is_pending = False
        self._has_failed = False

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Take how far a stage of the preparation is; stages within and after training are not recorded."""
        if self._stage != TRAINING:
            self._move(stage, done, total)

    def started(self, total_steps: int, start_step: int) -> None:
        """Start the stage "Training"."""
        self._inner.started(total_steps, start_step)
        self._move(TRAINING, start_step, total_steps)

    def advanced(self, step: int) -> None:
        """Take the number of steps done."""
        self._inner.advanced(step)
        self._move(TRAINING, step, self._total)

    def step(self, record: Record) -> None:
        """Take the number and the loss of a step."""
        self._inner.step(record)
        loss, step = number(record, "loss"), number(record, "step")
        self._loss = self._loss if loss is None else loss
        if step is not None:
            self._move(TRAINING, int(step), self._total)

    def evaluated(self, record: Record) -> None:
        """Take the metrics of an evaluation."""
        self._inner.evaluated(record)
        metrics = {name: number(record, name) for name in record if name not in _NO_METRICS}
        self._validation = {name: value for name, value in metrics.items() if value is not None}
        self._move(TRAINING, self._done, self._total)

    def warned(self, message: str) -> None:
        """Forward the warning, which the file does not contain."""
        self._inner.warned(message)

    def finished(self) -> None:
        """Write the latest values."""
        self._inner.finished()
        if self._is_pending:
            self._write()

    def _move(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        is_new = stage != self._stage
        if is_new:
            self._stage = stage
            self._samples.clear()
        self._done, self._total = done, total
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _SPEED_SECONDS:
            self._samples.popleft()
        self._is_pending = True
        if is_new or now - self._last_write >= _LEAST_SECONDS:
            self._write()

    def _per_second(self) -> float | None:
        (first_time, first), (last_time, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_time - first_time) if last_time > first_time and last > first else None

    def _write(self) -> None:
        self._is_pending = False
        if not self._is_writer():
            return
        self._last_write = self._clock()
        per_second = self._per_second()
        value = {
            "stage": self._stage,
            "done": self._done,
            "total": self._total,
            "per_second": per_second,
            "seconds_left": None if per_second is None else max(0, self._total - self._done) / per_second,
            "loss": self._loss,
            "validation": self._validation,
        }
        # Named after this process, in case an abandoned earlier one still writes.
        aside = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
            aside.replace(self._path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if not self._has_failed:
                _log.warning("the progress file %s cannot be written: %s; training continues", self._path, error)
            self._has_failed = True
