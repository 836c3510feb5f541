"""The findings of akin doctor as a table."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from service.cli.doctor import Finding, Status

_STATUS_STYLE = {Status.OK: "green", Status.NOTE: "yellow", Status.PROBLEM: "bold red"}


def doctor_table(findings: Sequence[Finding]) -> Table:
    """Show findings with their remedies."""
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
