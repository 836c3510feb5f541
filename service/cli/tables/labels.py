"""Tables of labels."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from service.cli.tables.facts import facts_table
from service.labels.applying import LabelReport
from service.web.schemas.labels import ClassCountsView, LabelCounts, LabelView


def label_report_table(report: LabelReport) -> Table:
    """Show the report of an upload of labels."""
    table = facts_table(f"{report.layout}{', dry run: nothing was written' if report.dry_run else ''}")
    if report.understood:
        table.add_row("understood", escape(report.understood))
    for note in report.notes:
        table.add_row("note", escape(note))
    rows = {
        "examples added": report.num_added,
        "labels changed": report.num_changed,
        "rows unchanged": report.num_unchanged,
        "rows failed": report.num_failed,
        "rows skipped (not examples)": report.num_skipped,
        "files left out": len(report.left_out),
    }
    for name, number in rows.items():
        table.add_row(name, str(number))
    table.add_row("seconds", f"{report.seconds:.1f}")
    return table


def labels_table(labels: Sequence[LabelView]) -> Table:
    """Show images with their labels."""
    table = Table()
    for name in ("image id", "label", "product", "role", "state", "new", "labelled by"):
        table.add_column(name, overflow="fold")
    for row in labels:
        cells = (row.image_id, row.label, row.product_id, row.role, row.state, "yes" if row.is_new else "")
        table.add_row(*(escape(cell) for cell in (*cells, row.labelled_by or "")))
    return table


def class_counts_table(classes: Sequence[ClassCountsView], total: LabelCounts) -> Table:
    """Show the numbers of images of each class, and of all classes."""
    table = Table(title=f"{len(classes):,} labels", title_justify="left", show_footer=True)
    names = ("images", "catalogue", "examples", "train", "validation", "test", "new")
    table.add_column("label", "all", overflow="fold")
    for name in names:
        table.add_column(name, f"{getattr(total, f'num_{name}'):,}", justify="right")
    for row in classes:
        table.add_row(escape(row.label), *(f"{getattr(row, f'num_{name}'):,}" for name in names))
    return table
