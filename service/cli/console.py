"""Output of commands: results on standard output, everything else on standard error."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

output = Console(soft_wrap=True)
notes = Console(stderr=True, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))  # noqa: T201  # rich would interpret markup


@contextmanager
def progress_bar(
    title: str, unit: str = "images", *, console: Console = notes, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Show progress until the block ends; yields the function that updates it: (done, total).

    On a terminal this is a bar, elsewhere one line about every ten seconds with count, rate and time left.
    """
    if not console.is_interactive:
        from training.report.progress import LineProgress

        lines = LineProgress(console, clock=clock)
        yield lambda done, total: lines.stage(f"{title} {unit}", done, total)
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
    with Progress(*columns, console=console) as progress:
        tasks: list[TaskID] = []

        def move(done: int, total: int) -> None:
            # The bar appears with the first update, so that an early error leaves no empty bar.
            if not tasks:
                tasks.append(progress.add_task(title))
            progress.update(tasks[0], completed=done, total=total)

        yield move
