"""The one line that says what a source was understood as, the same in reports, answers and terminals."""

from collections.abc import Sequence

from training.datasets.rows import LeftOut

_NUM_NAMED = 10


def counted(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun, such as "1 image" and "2 images"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def plural(thing: str) -> str:
    """Return the plural of what a folder stands for."""
    return thing + ("es" if thing.endswith("s") else "s")


def understood(what: str, counts: Sequence[str], left_out: Sequence[LeftOut] = (), num_junk: int = 0) -> str:
    """Describe a source: what it is, its counts, and how many files are not part of it."""
    line = ", ".join((what, *counts))
    if left_out:
        line += f"; left out: {counted(len(left_out), 'file')}, listed in the report"
    if num_junk:
        line += f"; {counted(num_junk, 'file')} of operating systems ignored"
    return line


def first_left_out(left_out: Sequence[LeftOut]) -> str:
    """Describe the first files that are left out in one line, those that may be images first."""
    ordered = sorted(left_out, key=lambda item: not item.is_failure)
    shown = "; ".join(f"{item.location}: {item.reason}" for item in ordered[:_NUM_NAMED])
    return f"{shown}; and {len(left_out) - _NUM_NAMED:,} more" if len(left_out) > _NUM_NAMED else shown
