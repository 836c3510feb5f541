"""What a person sees while a run goes on: one live panel on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from training.report.run_folder import Record, metric_title, number, selection_metric

_REFRESHES_PER_SECOND = 4
_LINE_SECONDS = 10.0


class TrainingProgress(Protocol):
    """Whoever watches a run. Call `finished` whatever happens, or a terminal stays without its cursor."""

    def started(self, total_steps: int, start_step: int) -> None:
        """The run will go from `start_step` (0, or where it resumes) to `total_steps`."""

    def step(self, record: Record) -> None:
        """One step was logged; the record is the line of metrics.jsonl."""

    def evaluated(self, record: Record) -> None:
        """One evaluation was logged."""

    def warned(self, message: str) -> None:
        """Something needs the person's attention."""

    def finished(self) -> None:
        """The run is over, for whatever reason; may be called again."""


class SilentProgress:
    """Shows nothing."""

    def started(self, total_steps: int, start_step: int) -> None:
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
    """The last and the best value of the metric that chooses the checkpoint."""

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
    """Return the figures of a step's record in words, without those that it does not have."""
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


class _StepsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("– steps/s" if speed is None else f"{speed:,.1f} steps/s", style="cyan")


class BarProgress:
    """One live panel: bar, speed and time left, the figures of the last step, and the validation metric."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            _StepsPerSecond(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("training", total=None)
        self._record: Record = {}
        self._best = _BestMetric()
        self._live: Live | None = None

    def started(self, total_steps: int, start_step: int) -> None:
        """Open the panel."""
        self._progress.reset(self._task, total=total_steps, completed=start_step)
        self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=_REFRESHES_PER_SECOND)
        self._live.start()

    def step(self, record: Record) -> None:
        """Take the figures; they are drawn by the panel's own clock."""
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
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _panel(self) -> Panel:
        lines = [Text(line) for line in (describe_step(self._record), self._best.text()) if line]
        return Panel(Group(self._progress, *lines), title="training", title_align="left", border_style="dim")


class LineProgress:
    """A line every ten seconds and at each evaluation, for logs and pipes."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._total_steps = 0
        self._best = _BestMetric()
        # Step and time of the last line, from which the speed is counted.
        self._last_step = 0.0
        self._last_time = 0.0

    def started(self, total_steps: int, start_step: int) -> None:
        """Say what will be done."""
        self._total_steps = total_steps
        self._last_step, self._last_time = start_step, self._clock()
        self._print(f"training from step {start_step:,} to {total_steps:,}")

    def step(self, record: Record) -> None:
        """Print the figures if the last line is ten seconds old."""
        step, now = number(record, "step"), self._clock()
        seconds = now - self._last_time
        if step is None or seconds < _LINE_SECONDS:
            return
        speed = (step - self._last_step) / seconds
        self._last_step, self._last_time = step, now
        minutes_left = f"{(self._total_steps - step) / speed / 60:,.1f} min left" if speed > 0 else "time left unknown"
        place = f"step {step:,.0f}/{self._total_steps:,} · {speed:,.1f} steps/s · {minutes_left}"
        self._print(f"{place} · {describe_step(record)}")

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
        """Nothing is left to be closed."""

    def _print(self, line: str) -> None:
        # Neither wrapped nor styled: a log's reader wants whole lines.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def choose_progress(console: Console) -> TrainingProgress:
    """Return the live panel where the console is a terminal that can redraw, and lines elsewhere."""
    return BarProgress(console) if console.is_interactive else LineProgress(console)
