"""Evaluations and their comparison as tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from service.evaluations.comparison import Comparison


_PARTS = ("mean_of_parts", "seen", "unseen")


def evaluations_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Show evaluations, newest first."""
    table = Table()
    table.add_column("evaluation", no_wrap=True, min_width=max((len(row["evaluation_id"]) for row in rows), default=0))
    table.add_column("created", overflow="fold")
    # Users copy ids from here, so they are never truncated.
    table.add_column("release", no_wrap=True, min_width=max((len(row["release_id"] or "") for row in rows), default=0))
    for name in ("set", "queries", "gallery"):
        table.add_column(name, overflow="fold")
    for part in _PARTS:
        table.add_column(f"recall@1 {part.replace('_', ' ')}", justify="right")
    for row in rows:
        recalls = [row["metrics"].get(part, {}).get("recall_at_1") for part in _PARTS]
        table.add_row(
            row["evaluation_id"],
            row["created_at"][:16].replace("T", " "),
            row["release_id"] or "none",
            row["evaluation_set_id"][:12],
            str(row["num_queries"]),
            _gallery(row),
            *("" if recall is None else f"{recall:.4f}" for recall in recalls),
        )
    return table


def _gallery(row: Mapping[str, Any]) -> str:
    """Describe the size of the gallery: all images, and how many of them are distractors."""
    if row["num_gallery_images"] is None:
        return "not recorded"
    return f"{row['num_gallery_images']:,} ({row['num_distractors']:,} distractors)"


def comparison_tables(comparison: "Comparison") -> list[Table]:
    """Show a comparison as three tables: metrics, classes, queries."""
    metrics = Table(title=f"{comparison.a.id} → {comparison.b.id}", title_justify="left")
    for name in ("part", "metric", "before", "after", "difference", "95 % interval", "queries"):
        metrics.add_column(name)
    for change in comparison.changes:
        metrics.add_row(
            change.part.replace("_", " "),
            change.metric,
            f"{change.before:.4f}",
            f"{change.after:.4f}",
            f"{change.difference:+.4f}",
            f"{change.low:+.4f} to {change.high:+.4f}",
            str(change.num_queries),
        )
    counts = f"{comparison.num_won} queries won, {comparison.num_lost} lost, {comparison.num_unchanged} as before"
    classes = Table(title=f"{counts}; classes", title_justify="left")
    for name in ("class", "queries", "right before", "right after"):
        classes.add_column(name, overflow="fold")
    for one in (*comparison.classes_won, *comparison.classes_lost):
        classes.add_row(
            escape(one.label),
            str(one.num_queries),
            f"{one.before:.2f}",
            f"{one.after:.2f}",
        )
    queries = Table(title="queries", title_justify="left")
    for name in ("", "class", "rank before", "rank after", "image"):
        queries.add_column(name, overflow="fold")
    for outcome, queries_changed in (("won", comparison.queries_won), ("lost", comparison.queries_lost)):
        for query in queries_changed:
            ranks = (str(query.rank_before), str(query.rank_after))
            queries.add_row(outcome, escape(query.label), *ranks, query.media_name or "not kept")
    return [metrics, classes, queries]
