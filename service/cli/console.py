"""Output of commands: results on standard output, everything else on standard error."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

output = Console(soft_wrap=True)
notes = Console(stderr=True, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))  # noqa: T201  # rich would interpret markup


class MoveBar(Protocol):
    """Shows progress."""

    def __call__(self, done: int, total: int, detail: object = "", /) -> None:
        """Show that `done` of `total` are processed; the text of `detail` is shown beside or below."""


class DetailedProgress(Progress):
    """Bars with a line of text below."""

    detail = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars and the line."""
        yield from super().get_renderables()
        if self.detail:
            yield Text(f"  {self.detail}", style="dim")


@contextmanager
def progress_bar(
    title: str, unit: str = "images", *, console: Console = notes, clock: Callable[[], float] = time.monotonic
) -> Iterator[MoveBar]:
    """Show progress until the block ends; yields the function that updates it.

    On a terminal this is a bar, elsewhere one line about every ten seconds with count, rate and time left.
    """
    if not console.is_interactive:
        from training.report.progress import LineProgress

        lines = LineProgress(console, clock=clock)
        yield lambda done, total, detail="": lines.stage(f"{title} {unit}", done, total, str(detail or ""))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with DetailedProgress(*columns, console=console) as progress:
        tasks: list[TaskID] = []

        def move(done: int, total: int, detail: object = "", /) -> None:
            # The bar appears with the first update, so that an early error leaves no empty bar.
            if not tasks:
                tasks.append(progress.add_task(title))
            progress.detail = str(detail or "")
            progress.update(tasks[0], completed=done, total=total)

        yield move
