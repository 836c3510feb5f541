"""How operations are shown on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from service.web.schemas.operations import OperationView

_STYLE = {"succeeded": "green", "rejected": "yellow", "failed": "red", "cancelled": "dim", "running": "cyan"}
_PARTS = {
    "seen": "new photos of known products",
    "unseen": "products never trained on",
    "mean_of_parts": "mean of both",
}


def operations_table(views: Sequence[OperationView]) -> Table:
    """Show operations a line each."""
    table = Table()
    # Ids are copied from here: never shortened, however narrow the terminal.
    table.add_column("operation", no_wrap=True, min_width=max((len(view.operation_id) for view in views), default=0))
    for name in ("state", "step", "asked for", "by"):
        table.add_column(name)
    for view in views:
        style = _STYLE.get(view.state, "")
        state = f"[{style}]{view.state}[/]" if style else view.state
        table.add_row(view.operation_id, state, view.step or "", f"{view.created_at:%Y-%m-%d %H:%M}", view.created_by)
    return table


def operation_lines(view: OperationView) -> Iterator[str]:
    """Say what an operation is, how far it is, and what came of it."""
    yield f"{view.operation_id}: {view.state}"
    for step in view.steps:
        took = f"{step.seconds:.1f} s" if step.seconds is not None else view.state
        yield f"  {step.name:12s} {took}"
    if view.progress is not None and view.progress.total:
        left = f", {view.progress.seconds_left:.0f} s left" if view.progress.seconds_left is not None else ""
        yield f"  {view.progress.stage}: {view.progress.done} of {view.progress.total}{left}"
    yield from _figures(view.result)
    verdict = view.result.get("verdict")
    if verdict:
        for reason in verdict["reasons"]:
            yield f"  {'ok ' if reason['is_met'] else 'NOT'} {reason['message']}"
    if release := view.result.get("release"):
        active = "activated" if view.result.get("is_active") else "published, not activated by this operation"
        yield f"release {release['release_id']}: {active}"
    # What the gate says stands above already, line by line.
    if view.error is not None and not (verdict and view.error.code == "gate"):
        yield f"{view.error.code}: {view.error.detail}"


def _figures(result: Mapping[str, Any]) -> Iterator[str]:
    candidate, active = result.get("candidate"), result.get("active")
    if candidate is None:
        return
    for part, title in _PARTS.items():
        after = candidate["metrics"].get(part, {}).get("recall_at_1")
        before = active["metrics"].get(part, {}).get("recall_at_1") if active else None
        if after is not None:
            was = f"{before:.3f} before, " if before is not None else ""
            yield f"  recall@1, {title}: {was}{after:.3f} now"
