"""The option --layout, and what is printed of files that were left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import notes

if TYPE_CHECKING:
    from training.datasets.folders import Layout
    from training.datasets.rows import LeftOut

LayoutOption = Annotated[
    str,
    typer.Option(
        help="How folders are read. auto: decided from the folders, or refused; products: each outermost folder is one "
        "product or class; paths: each folder with images is one, named by its path."
    ),
]
_NUM_SHOWN = 10


def checked_layout(text: str) -> "Layout":
    """Return the layout of the option; raises typer.BadParameter for another value."""
    from training.datasets.folders import layout_named

    try:
        return layout_named(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--layout") from error


def show_left_out(left_out: "Sequence[LeftOut]", report: Path | None) -> None:
    """Print the first files that were left out, those that may be images first, and where all are listed."""
    for item in sorted(left_out, key=lambda item: not item.is_failure)[:_NUM_SHOWN]:
        colour = "red" if item.is_failure else "yellow"
        notes.print(f"[{colour}]left out: {escape(item.location)}:[/] {escape(item.reason)}", highlight=False)
    if len(left_out) > _NUM_SHOWN:
        where = f", listed in {report}" if report else ""
        notes.print(f"and {len(left_out) - _NUM_SHOWN:,} more{where}", highlight=False)


def exit_if_left_out(left_out: "Sequence[LeftOut]") -> None:
    """Exit with status 1 if a file was left out that is an image or may be one."""
    if any(item.is_failure for item in left_out):
        raise typer.Exit(1)
