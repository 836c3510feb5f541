"""What commands print with: results on standard output, everything else on standard error."""

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

_SECONDS_BETWEEN_LINES = 10.0

output = Console(soft_wrap=True)
notes = Console(stderr=True, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a result for machines."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))  # noqa: T201  # not through rich: no markup


@contextmanager
def progress_bar(title: str, unit: str = "images") -> Iterator[Callable[[int, int], None]]:
    """Show a bar with count and time left; gives the function that moves it: (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    if not notes.is_terminal:
        yield _occasional_lines(title, unit)
        return
    with Progress(*columns, console=notes) as progress:
        tasks: list[TaskID] = []

        def move(done: int, total: int) -> None:
            # Not before there is something to show: a mistake found at once leaves no empty bar behind.
            if not tasks:
                tasks.append(progress.add_task(title))
            progress.update(tasks[0], completed=done, total=total)

        yield move


def _occasional_lines(title: str, unit: str) -> Callable[[int, int], None]:
    """Say every ten seconds how far it is: for logs, where a bar would be noise and silence a riddle."""
    last = time.monotonic()

    def move(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            notes.print(f"{title}: {done} of {total} {unit}", highlight=False)

    return move
