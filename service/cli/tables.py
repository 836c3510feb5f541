"""Tables that commands print."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from service.catalogue.reports import ImportReport
from service.doctor import Finding, Status
from service.releases.build import BuiltRelease

_STATUS_STYLE = {Status.OK: "green", Status.NOTE: "yellow", Status.PROBLEM: "bold red"}


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


def import_table(report: ImportReport) -> Table:
    """Show what an import did."""
    title = f"{report.layout}{', dry run: nothing was written' if report.dry_run else ''}"
    table = _facts_table(title)
    rows = {
        "products added": report.num_products_added,
        "products updated": report.num_products_updated,
        "images added": report.num_images_added,
        "images updated": report.num_images_updated,
        "rows unchanged": report.num_unchanged,
        "rows failed": len(report.errors),
        "files ignored (no images)": report.num_ignored,
    }
    for name, number in rows.items():
        table.add_row(name, str(number))
    table.add_row("seconds", f"{report.seconds:.1f}")
    return table


def built_table(built: BuiltRelease) -> Table:
    """Show a release that was built."""
    table = _facts_table(f"release {built.release_id}{' (active)' if built.is_active else ' (not active)'}")
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
    """Show all releases."""
    table = Table()
    # Ids are copied from here: never shortened, however narrow the terminal.
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


def doctor_table(findings: Sequence[Finding]) -> Table:
    """Show what the doctor found."""
    table = Table()
    table.add_column("what")
    table.add_column("status")
    table.add_column("finding", overflow="fold")
    table.add_column("remedy", overflow="fold")
    for finding in findings:
        style = _STATUS_STYLE[finding.status]
        status = f"[{style}]{finding.status.value}[/]"
        table.add_row(finding.name, status, escape(finding.detail), escape(finding.remedy))
    return table


def _facts_table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table
