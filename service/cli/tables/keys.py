"""Keys and the audit log as tables."""

from collections.abc import Sequence
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from service.web.schemas.keys import KeyView

_STATE_STYLE = {"active": "green", "expired": "yellow", "revoked": "red"}


def keys_table(views: Sequence[KeyView]) -> Table:
    """Return a table of keys."""
    table = Table()
    for name in ("key", "state", "scopes", "created", "by", "expires", "last used", "old secret until"):
        table.add_column(name, overflow="fold")
    for view in views:
        style = _STATE_STYLE[view.state]
        table.add_row(
            view.name,
            f"[{style}]{view.state}[/]",
            ", ".join(view.scopes),
            _minute(view.created_at),
            escape(view.created_by or "first start"),
            _minute(view.expires_at),
            _minute(view.last_used_at),
            _minute(view.old_secret_until),
        )
    return table


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
