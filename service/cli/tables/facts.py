"""A table of names and values."""

from rich.table import Table


def facts_table(title: str) -> Table:
    """Return an empty table with two columns, names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table
