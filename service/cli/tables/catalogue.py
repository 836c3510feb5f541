"""Tables of imports."""

from rich.markup import escape
from rich.table import Table

from service.catalogue.reports import ImportReport
from service.cli.tables.facts import facts_table


def import_table(report: ImportReport) -> Table:
    """Show the report of an import."""
    title = f"{report.layout}{', dry run: nothing was written' if report.dry_run else ''}"
    table = facts_table(title)
    table.add_row("understood", escape(report.understood))
    for note in report.notes:
        table.add_row("note", escape(note))
    rows = {
        "products added": report.num_products_added,
        "products updated": report.num_products_updated,
        "images added": report.num_images_added,
        "images updated": report.num_images_updated,
        "rows unchanged": report.num_unchanged,
        "rows failed": report.num_failed,
        "files left out": len(report.left_out),
    }
    for name, number in rows.items():
        table.add_row(name, str(number))
    table.add_row("seconds", f"{report.seconds:.1f}")
    return table
