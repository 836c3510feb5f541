"""Recording in the audit log what a command changes, also when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape

from service.cli.console import notes

if TYPE_CHECKING:
    from service.installation.installation import Installation


@dataclass(slots=True)
class Recording:
    """The row to be written; a command may set `target` once it is known."""

    target: str


@contextmanager
def recorded(
    installation: "Installation", action: str, target: str = "", *, is_dry_run: bool = False
) -> Iterator[Recording]:
    """Write one row of the audit log when the block ends: that it succeeded, or the code of its error.

    A dry run writes no row.
    """
    from service.access.audit import SUCCEEDED
    from service.errors import code_of

    recording = Recording(target)
    outcome = SUCCEEDED
    try:
        yield recording
    except BaseException as error:
        outcome = code_of(error)
        raise
    finally:
        if not is_dry_run:
            _write(installation, action, recording.target, outcome)


def command_line_user() -> str:
    """Return the user of the command line as the audit log names them."""
    from getpass import getuser

    from service.access.scopes import COMMAND_LINE

    try:
        return f"{COMMAND_LINE}, {getuser()}"
    except (OSError, KeyError):
        return COMMAND_LINE


def _write(installation: "Installation", action: str, target: str, outcome: str) -> None:
    from socket import gethostname

    from service.access.audit import AuditEntry, record_event
    from service.access.masking import without_keys
    from service.errors import ServiceError, reason_of

    admin_key = installation.settings.admin_key
    entry = AuditEntry(
        command_line_user(), action, without_keys(target, admin_key), address=gethostname(), outcome=outcome
    )
    try:
        record_event(installation.database, entry)
    except ServiceError as error:
        # The command itself has succeeded, or has failed for another reason.
        notes.print(
            f"[yellow]warning:[/] this is missing from the audit log: {escape(reason_of(error))}", highlight=False
        )
