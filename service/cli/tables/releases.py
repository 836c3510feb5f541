"""Tables of releases and evaluations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from service.cli.tables.facts import facts_table

if TYPE_CHECKING:
    # Both load the network, which listing releases does not need.
    from service.releases.build import BuiltRelease


def activations_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Show activations, newest first."""
    table = Table()
    table.add_column("when")
    table.add_column("release", no_wrap=True, min_width=max((len(row["release_id"]) for row in rows), default=0))
    for name in ("before it", "by", "reason"):
        table.add_column(name, overflow="fold")
    for row in rows:
        when = row["activated_at"][:16].replace("T", " ")
        cells = (row["previous_release_id"] or "", row["activated_by"], row["reason"])
        table.add_row(when, row["release_id"], *(escape(cell) for cell in cells))
    return table


def built_table(built: "BuiltRelease") -> Table:
    """Show a release that was built."""
    table = facts_table(f"release {built.release_id}{' (active)' if built.is_active else ' (not active)'}")
    recall = built.index["ann_recall"]
    structure = built.index["structure"]
    assert isinstance(recall, dict)
    assert isinstance(structure, dict)
    rows = {
        "products": built.num_products,
        "images": built.num_images,
        "images embedded now": f"{built.num_embedded} in {built.embed_seconds:.1f} s",
        "index": f"{structure['name']}, built in {built.build_seconds:.1f} s",
        "ann_recall": f"{recall['value']:.4f} at {recall['k']}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def releases_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Show releases, newest first."""
    table = Table()
    # Users copy ids from here, so they are never truncated.
    table.add_column("release", no_wrap=True, min_width=max((len(row["release_id"]) for row in rows), default=0))
    for name in ("active", "created", "products", "images"):
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["release_id"],
            "[green]yes[/]" if row["is_active"] else "",
            row["created_at"][:16].replace("T", " "),
            str(row["num_products"]),
            str(row["num_images"]),
        )
    return table
