"""Show a run's progress: a live panel on a terminal, and elsewhere one line about every ten seconds."""

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from training.report.run_folder import Record, metric_title, number, selection_metric

_REFRESHES_PER_SECOND = 4
_LINE_SECONDS = 10.0


class TrainingProgress(Protocol):
    """Receives the progress of a training loop. Callers always call `finished`, which restores the terminal."""

    def started(self, total_steps: int, start_step: int) -> None:
        """Training runs from `start_step` (0, or the step it resumes at) to `total_steps`."""

    def advanced(self, step: int) -> None:
        """Called after every step with the number of steps done."""

    def step(self, record: Record) -> None:
        """Called after every logged step with its line of metrics.jsonl."""

    def evaluated(self, record: Record) -> None:
        """Called after every logged evaluation."""

    def warned(self, message: str) -> None:
        """Called for what the user should know."""

    def finished(self) -> None:
        """Called when the run ends for any reason; idempotent."""


class ProgressDisplay(TrainingProgress, Protocol):
    """A `TrainingProgress` that also shows the stages before, during and after training."""

    def stage(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` images of a stage such as "Decoding" are processed."""


class SilentProgress:
    """Shows nothing."""

    def started(self, total_steps: int, start_step: int) -> None:
        """Show nothing."""

    def advanced(self, step: int) -> None:
        """Show nothing."""

    def step(self, record: Record) -> None:
        """Show nothing."""

    def evaluated(self, record: Record) -> None:
        """Show nothing."""

    def warned(self, message: str) -> None:
        """Show nothing."""

    def finished(self) -> None:
        """Show nothing."""


class _BestMetric:
    """The last and the best value of the metric that selects the checkpoint."""

    def __init__(self) -> None:
        self._last: tuple[str, float] | None = None
        self._best: tuple[float, float] | None = None

    def add(self, record: Record) -> None:
        """Take the record of an evaluation."""
        self._last = selection_metric(record) or self._last
        if self._last and (self._best is None or self._last[1] > self._best[0]):
            self._best = (self._last[1], number(record, "step") or 0)

    def text(self) -> str:
        """Return both in words; empty before the first evaluation."""
        if self._last is None or self._best is None:
            return ""
        name, value = self._last
        best, step = self._best
        return f"validation {metric_title(name)} {value:.3f} (best {best:.3f} at step {step:,.0f})"


def describe_step(record: Record) -> str:
    """Return the figures of a step's record in words; figures missing from the record are omitted."""
    parts = [
        _figure("loss", number(record, "loss"), ".4g"),
        _figure("active", number(record, "active_share"), ".0%"),
        _figure("positives", number(record, "positive_distance_q50"), ".2f"),
        _figure("negatives", number(record, "negative_distance_q50"), ".2f"),
        _figure("spread", number(record, "embedding_spread"), ".2f"),
        _figure("drift", number(record, "drift"), ".3g"),
        _figure("pull", number(record, "pull_ratio"), ".2g"),
        _figure("mined", number(record, "mined_share"), ".0%"),
    ]
    return " · ".join(part for part in parts if part)


def _figure(name: str, value: float | None, form: str) -> str:
    return "" if value is None else f"{name} {value:{form}}"


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"–{self._unit}/s" if speed is None else f"{speed:,.1f}{self._unit}/s", style="cyan")


class _StageBar:
    """A bar for the current stage, removed from the terminal when the stage is complete."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(""),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def move(self, stage: str, done: int, total: int) -> None:
        """Update the bar of a stage, and start it if the stage is new."""
        if stage not in self._tasks:
            self.stop()
            self._progress.start()
            self._tasks[stage] = self._progress.add_task(stage)
        self._progress.update(self._tasks[stage], completed=done, total=total)
        if done >= total:
            self.stop()

    def stop(self) -> None:
        """Remove the bar: a terminal holds one live display at a time."""
        self._progress.stop()
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()


class BarProgress:
    """A bar for each stage, and for training one live panel: bar, speed, time left, last figures and best metric."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            _Speed(" steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("training", total=None)
        self._record: Record = {}
        self._best = _BestMetric()
        self._live: Live | None = None
        self._stage_bar = _StageBar(console)
        self._stage_text = ""

    def stage(self, stage: str, done: int, total: int) -> None:
        """Move the stage's bar; during training the stage is a line of the panel instead."""
        if self._live is None:
            self._stage_bar.move(stage, done, total)
        else:
            self._stage_text = f"{stage.lower()} {done:,}/{total:,}" if done < total else ""

    def started(self, total_steps: int, start_step: int) -> None:
        """Open the panel."""
        self._stage_bar.stop()
        self._progress.reset(self._task, total=total_steps, completed=start_step)
        self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND)
        self._live.start()

    def advanced(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def step(self, record: Record) -> None:
        """Take the figures; the panel redraws on its own clock."""
        self._record = record
        self._progress.update(self._task, completed=number(record, "step"))

    def evaluated(self, record: Record) -> None:
        """Take the metric."""
        self._best.add(record)

    def warned(self, message: str) -> None:
        """Print the message above the panel, where it stays."""
        self._console.print(Text(f"warning: {message}", style="yellow"))

    def finished(self) -> None:
        """Draw the last state and leave it on the terminal."""
        self._stage_bar.stop()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _panel(self) -> Panel:
        lines = [Text(line) for line in (describe_step(self._record), self._best.text(), self._stage_text) if line]
        return Panel(Group(self._progress, *lines), title="training", title_align="left", border_style="dim")


class _Pace:
    """Decides when the next line is due, and measures the speed since the previous line."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._done = 0.0
        self._since = self._last_update = self._last_line = clock()

    def restart(self, done: float) -> None:
        """Count from `done` on, as of the last update: the first one of a stage comes after its first image."""
        self._done, self._since = done, self._last_update

    def line_printed(self) -> None:
        """Note that a line was printed just now."""
        self._last_update = self._last_line = self._clock()

    def update(self, done: float, total: float, unit: str) -> str | None:
        """Return speed and time left if ten seconds have passed since the last line, else None."""
        now = self._last_update = self._clock()
        if now - self._last_line < _LINE_SECONDS:
            return None
        seconds = now - self._since
        speed = (done - self._done) / seconds if seconds > 0 else 0.0
        self._done, self._since, self._last_line = done, now, now
        left = f"{(total - done) / speed / 60:,.1f} min left" if speed > 0 else "time left unknown"
        return f"{speed:,.1f}{unit}/s · {left}"


class LineProgress:
    """Prints one line about every ten seconds, and one for each evaluation: for logs and pipes."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._pace = _Pace(clock)
        self._stage = ""
        self._total_steps = 0
        self._record: Record = {}
        self._best = _BestMetric()

    def stage(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Print how far the stage is, with its rate, the time left and `detail`."""
        if stage != self._stage:
            self._stage = stage
            self._pace.restart(0)
        if pace := self._pace.update(done, total, ""):
            parts = (f"{stage.lower()} {done:,}/{total:,}", pace, detail)
            self._print(" · ".join(part for part in parts if part))
        if done >= total:
            self._stage = ""

    def started(self, total_steps: int, start_step: int) -> None:
        """Print the first and the last step."""
        self._total_steps = total_steps
        self._print(f"training from step {start_step:,} to {total_steps:,}")
        self._stage = "training"
        self._pace.line_printed()
        self._pace.restart(start_step)

    def advanced(self, step: int) -> None:
        """Print speed, time left and the last figures if the previous line is ten seconds old."""
        if self._stage != "training":
            self._stage = "training"
            self._pace.restart(step - 1)
        if pace := self._pace.update(step, self._total_steps, " steps"):
            parts = (f"step {step:,}/{self._total_steps:,}", pace, describe_step(self._record))
            self._print(" · ".join(part for part in parts if part))

    def step(self, record: Record) -> None:
        """Take the figures for the next line."""
        self._record = record

    def evaluated(self, record: Record) -> None:
        """Print the metric."""
        self._best.add(record)
        share = number(record, "final_relaxation")
        if share is not None and (metric := selection_metric(record)):
            self._print(f"final relaxation {share:g}: validation {metric_title(metric[0])} {metric[1]:.3f}")
        elif text := self._best.text():
            self._print(f"step {number(record, 'step') or 0:,.0f}/{self._total_steps:,} · {text}")

    def warned(self, message: str) -> None:
        """Print the message."""
        self._print(f"warning: {message}")

    def finished(self) -> None:
        """Do nothing: no terminal state to restore."""

    def _print(self, line: str) -> None:
        # Neither wrapped nor styled: a log holds whole lines. Console.print flushes the file.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def choose_progress(console: Console) -> ProgressDisplay:
    """Return the live display where the console is a terminal that can redraw, and lines elsewhere."""
    return BarProgress(console) if console.is_interactive else LineProgress(console)
