"""Search results as a table."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table


def hits_table(release_id: str, hits: Sequence[dict[str, Any]]) -> Table:
    """Show hits, best first."""
    table = Table(title=f"release {release_id}", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    for name in ("product", "title", "attributes"):
        table.add_column(name, overflow="fold")
    for number, hit in enumerate(hits, start=1):
        attributes = ", ".join(f"{name}: {value}" for name, value in hit["attributes"].items())
        cells = (hit["product_id"], hit["title"], attributes)
        table.add_row(str(number), f"{hit['score']:.4f}", *(escape(cell) for cell in cells))
    return table
