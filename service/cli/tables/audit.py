"""The audit log as a table."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from service.web.schemas.audit import AuditEventView


def audit_table(views: Sequence[AuditEventView]) -> Table:
    """Return a table of events of the audit log."""
    table = Table()
    for name in ("when (UTC)", "who", "what", "target", "from", "outcome"):
        table.add_column(name, overflow="fold")
    for view in views:
        table.add_row(
            f"{view.at:%Y-%m-%d %H:%M:%S}",
            *(escape(text) for text in (view.actor or "", view.action, view.target, view.address, view.outcome)),
        )
    return table
