"""Writing into the audit log what a command changes, however it ends."""

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
    """What the row will say; a command that learns later what it acts on says so here."""

    target: str


@contextmanager
def recorded(
    installation: "Installation", action: str, target: str = "", *, is_dry_run: bool = False
) -> Iterator[Recording]:
    """Write one row of the audit log when the block ends: it succeeded, or with which error it failed.

    A dry run leaves none, as it leaves nothing else.
    """
    recording = Recording(target)
    outcome = "succeeded"
    try:
        yield recording
    except BaseException as error:
        from service.errors import code_of

        outcome = code_of(error)
        raise
    finally:
        if not is_dry_run:
            _write(installation, action, recording.target, outcome)


def command_line_user() -> str:
    """Return who uses the command line, as logs and records name them."""
    from getpass import getuser

    try:
        return f"command line, {getuser()}"
    except (OSError, KeyError):
        return "command line"


def _write(installation: "Installation", action: str, target: str, outcome: str) -> None:
    from socket import gethostname

    from service.access.audit import AuditEntry, record_event
    from service.access.keys import without_keys
    from service.errors import ServiceError, reason_of

    admin_key = installation.settings.admin_key
    entry = AuditEntry(
        command_line_user(), action, without_keys(target, admin_key), address=gethostname(), outcome=outcome
    )
    try:
        record_event(installation.database, entry)
    except ServiceError as error:
        # What the command did is done, or has failed for a reason of its own.
        notes.print(
            f"[yellow]warning:[/] the audit log has no row of this: {escape(reason_of(error))}", highlight=False
        )
