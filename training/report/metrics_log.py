"""The log of a run: one JSON object per line in metrics.jsonl, and the same numbers for TensorBoard."""

import json
import math
import numbers
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from training.errors import InvalidRun
from training.report.run_folder import METRICS, TENSORBOARD, Record

# Fields that identify a record.
_NOT_PLOTTED = frozenset({"kind", "step"})


class MetricsLog:
    """Appends the records of a run to its folder; each line is flushed when `write` returns.

    Without `resume_after_step` a new log is started. With it, the records of later steps and an incomplete last line
    are removed, so that the log equals that of an uninterrupted run. Every record of a step must therefore be written
    before the state of that step.
    """

    def __init__(self, run_dir: Path, *, tensorboard: bool = True, resume_after_step: int | None = None) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS
        if resume_after_step is not None:
            _drop_later_records(path, resume_after_step)
        self._file = path.open("w" if resume_after_step is None else "a", encoding="utf-8", buffering=1)
        self._summary: SummaryWriter | None = None
        if tensorboard:
            # TensorBoard hides the values of this and later steps in earlier event files.
            first_step = 0 if resume_after_step is None else resume_after_step + 1
            _wait_for_a_later_name(run_dir / TENSORBOARD)
            self._summary = SummaryWriter(str(run_dir / TENSORBOARD), purge_step=first_step)

    def write(self, record: Record) -> None:
        """Append one record; NaN and infinity become null, since JSON has neither."""
        plain = {key: _json_value(value) for key, value in record.items()}
        self._file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        step = plain.get("step")
        if self._summary is None or not isinstance(step, int):
            return
        for key, value in plain.items():
            if key not in _NOT_PLOTTED and isinstance(value, int | float) and not isinstance(value, bool):
                self._summary.add_scalar(f"{plain.get('kind', 'step')}/{key}", value, step)

    def close(self) -> None:
        """Flush and close both logs; idempotent."""
        self._file.close()
        if self._summary is not None:
            self._summary.close()
            self._summary = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait_for_a_later_name(directory: Path) -> None:
    """Wait until a new event file sorts after those in `directory`: names begin with the time in whole seconds."""
    written_at = [int(path.name.split(".")[3]) for path in directory.glob("events.out.tfevents.*")]
    while written_at and time.time() < max(written_at) + 1:
        time.sleep(0.01)


def read_metrics(run_dir: Path) -> list[Record]:
    """Return the records of a run in the order of writing; empty without a log.

    An incomplete last line is ignored, since the run may be writing it. Raises InvalidRun for other damage.
    """
    path = run_dir / METRICS
    try:
        return [record for _, record in _whole_lines(path)]
    except FileNotFoundError:
        return []


def _whole_lines(path: Path) -> list[tuple[bytes, Record]]:
    lines = path.read_bytes().splitlines(keepends=True)
    whole: list[tuple[bytes, Record]] = []
    for position, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and line.endswith(b"\n"):
            whole.append((line, record))
        elif position < len(lines):
            raise InvalidRun(f"{path}:{position} is not a JSON object; remove that line to read the rest")
    return whole


def _drop_later_records(path: Path, last_step: int) -> None:
    """Atomically rewrite the log without the records after `last_step`."""
    if not path.exists():
        return
    kept = [line for line, record in _whole_lines(path) if _step_of(record) <= last_step]
    rewritten = path.with_suffix(".rewritten")
    with rewritten.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    rewritten.replace(path)


def _step_of(record: Record) -> float:
    step = record.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _json_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None
