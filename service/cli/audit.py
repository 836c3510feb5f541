"""akin audit: list who changed what, or was refused."""

from typing import Annotated

import typer

from service.cli.console import output, print_json
from service.cli.times import parse_moment


def audit(
    actor: Annotated[
        str | None, typer.Option(help="Only events of this actor: the name of a key, or 'command line, USER'.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only actions with this prefix, such as 'akin keys'.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="Only events with this outcome: succeeded, or an error code.")
    ] = None,
    since: Annotated[
        str, typer.Option(help="Only events since then: 24h, 7d, or a day such as 2027-01-31 (UTC).")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Number of events, newest first.")] = 50,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List changes and refused requests: who, what, when, from where, and the outcome."""
    from service.access.audit import AuditFilter, list_events
    from service.cli.tables.audit import audit_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.web.schemas.audit import AuditEventView

    wanted = AuditFilter(actor, action, outcome, parse_moment(since, "--since", sign=-1) if since else None)
    with open_installation(load_settings()) as installation:
        views = [AuditEventView.of(row) for row in list_events(installation.database, wanted, limit=limit)]
    if json:
        print_json([view.model_dump(mode="json") for view in views])
    else:
        output.print(audit_table(views))
