"""Operations as tables and lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from embedding.stages import describe_rates
from service.operations.row_errors import ROW_COUNTS
from service.web.schemas.operations import OperationView, RowErrorList

_STYLE = {"succeeded": "green", "rejected": "yellow", "failed": "red", "cancelled": "dim", "running": "cyan"}
_IMPORT_COUNTS = {
    "num_products_added": "products added",
    "num_products_updated": "products updated",
    "num_images_added": "images added",
    "num_images_updated": "images updated",
    "num_added": "examples added",
    "num_changed": "labels changed",
    "num_unchanged": "rows unchanged",
    "num_failed": "rows failed",
    "num_left_out": "files left out",
}
_PARTS = {
    "seen": "new photos of known products",
    "unseen": "products never trained on",
    "mean_of_parts": "mean of both",
}


def operations_table(views: Sequence[OperationView]) -> Table:
    """Return a table with a row for each operation."""
    table = Table()
    # Ids are copied from here, so they are never shortened, however narrow the terminal.
    table.add_column("operation", no_wrap=True, min_width=max((len(view.operation_id) for view in views), default=0))
    for name in ("state", "step", "requested", "by"):
        table.add_column(name)
    for view in views:
        style = _STYLE.get(view.state, "")
        state = f"[{style}]{view.state}[/]" if style else view.state
        table.add_row(view.operation_id, state, view.step or "", f"{view.created_at:%Y-%m-%d %H:%M}", view.created_by)
    return table


def operation_lines(view: OperationView) -> Iterator[str]:
    """Yield the lines that describe an operation: its steps, progress, metrics, verdict, release and error."""
    yield f"{view.operation_id}: {view.state}"
    yield from (f"  note: {note}" for note in view.notes)
    for step in view.steps:
        took = f"{step.seconds:.1f} s" if step.seconds is not None else view.state
        yield f"  {step.name:12s} {took}"
    if view.progress is not None and view.progress.total:
        left = f", {view.progress.seconds_left:.0f} s left" if view.progress.seconds_left is not None else ""
        yield f"  {view.progress.stage}: {view.progress.done} of {view.progress.total}{left}"
        if view.progress.stage_rates:
            yield f"  {describe_rates(view.progress.stage_rates)}"
    yield from _import_lines(view)
    yield from _metric_lines(view.result)
    verdict = view.result.get("verdict")
    if verdict:
        for reason in verdict["reasons"]:
            yield f"  {'ok ' if reason['is_met'] else 'NOT'} {reason['message']}"
    if release := view.result.get("release"):
        active = "activated" if view.result.get("is_active") else "published, not activated by this operation"
        yield f"release {release['release_id']}: {active}"
        if num_left := view.result.get("num_changes_left"):
            yield f"  {num_left:,} changes of the catalogue came after it; to include them: akin index build"
    # The gate's reasons are listed above already.
    if view.error is not None and not (verdict and view.error.code == "gate"):
        yield f"{view.error.code}: {view.error.detail}"


def progress_line(view: OperationView) -> str:
    """Return one line with an operation's state, step, progress, rate and time left, as far as they are known."""
    line = f"{view.operation_id}: {view.state}"
    if view.step:
        line += f", {view.step}"
    progress = view.progress
    if progress is not None and progress.total:
        line += f": {progress.stage}, {progress.done} of {progress.total}"
        if progress.per_second is not None and progress.seconds_left is not None:
            line += f", {progress.per_second:.3g} per second, {progress.seconds_left:.0f} s left"
        if progress.stage_rates:
            line += f" · {describe_rates(progress.stage_rates)}"
    return line


def num_row_errors(view: OperationView) -> int:
    """Return how many rows of an import failed and images were left out."""
    counts = view.result.get(ROW_COUNTS, {})
    return int(counts.get("num_failed", 0)) + int(counts.get("num_images_left_out", 0))


def row_error_lines(page: RowErrorList) -> Iterator[str]:
    """Yield the lines of a list of failed rows: one for each, and the counts."""
    for error in page.errors:
        yield f"{error.location}: {error.message}" + (" (left out)" if error.kind == "left-out" else "")
    unlisted = page.num_failed + page.num_left_out - page.num_listed
    more = f"; the last {unlisted:,} are not listed" if unlisted else ""
    yield f"{page.num_failed:,} rows failed, {page.num_left_out:,} files were left out{more}"


def _import_lines(view: OperationView) -> Iterator[str]:
    report = view.result.get("report") or view.result.get("labels") or {}
    if report:
        counts = {name: report[name] for name in _IMPORT_COUNTS if report.get(name)}
        shown = ", ".join(f"{number:,} {_IMPORT_COUNTS[name]}" for name, number in counts.items()) or "no changes"
        yield f"  {report['layout']}{', dry run: nothing was written' if report['dry_run'] else ''}: {shown}"
        yield from (f"  {line}" for line in (f"read as {report['understood']}", *report["notes"]))
        yield from (f"    {error['location']}: {error['message']}" for error in report["errors"])
        yield from (f"    left out: {item['location']}: {item['reason']}" for item in report["left_out"])
    num_listed = view.result.get(ROW_COUNTS, {}).get("num_listed", 0)
    if num_listed:
        yield f"  all {num_listed:,}: akin operations errors {view.operation_id}"


def _metric_lines(result: Mapping[str, Any]) -> Iterator[str]:
    candidate, active = result.get("candidate"), result.get("active")
    if candidate is None:
        return
    for part, title in _PARTS.items():
        after = candidate["metrics"].get(part, {}).get("recall_at_1")
        before = active["metrics"].get(part, {}).get("recall_at_1") if active else None
        if after is not None:
            previous = f"{before:.3f} before, " if before is not None else ""
            yield f"  recall@1, {title}: {previous}{after:.3f} now"
    evaluation_set = result.get("evaluation_set", {})
    if "num_gallery_images" in evaluation_set:
        yield (
            f"  measured with {evaluation_set['num_queries']:,} queries among {evaluation_set['num_gallery_images']:,} "
            f"of {evaluation_set['num_catalogue_images']:,} catalogue images, "
            f"{evaluation_set['num_distractors']:,} of them of other products"
        )
