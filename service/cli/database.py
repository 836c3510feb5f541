"""akin migrate: bring the tables to another revision, or show the current one."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import notes, output, print_json

if TYPE_CHECKING:
    from service.storage.migration import Versions


def migrate(
    to: Annotated[str | None, typer.Option(help="Target revision, newer or older; `base` is before the first.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Allow a downgrade, which loses data.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show the revision of the tables; change nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring the tables to the revision that this version of Akin needs, or to another one."""
    from service.errors import InvalidSetting
    from service.installation.settings import load_settings
    from service.storage.migration import EMPTY, read_versions
    from service.storage.migration import migrate as migrate_database

    settings = load_settings()
    if show:
        if to is not None:
            raise InvalidSetting("--show changes nothing; leave out --to")
        _print_versions(read_versions(settings.database_address), json)
        return
    before, after = migrate_database(settings.database_address, to, may_lose_data=yes)
    if to is None:
        from service.worker.job_engine import migrate_jobs

        migrate_jobs(settings)
    if json:
        print_json({"before": before, "after": after})
    elif before == after:
        notes.print(f"nothing to do: the tables have revision {after or EMPTY}", highlight=False)
    else:
        output.print(f"{before or EMPTY} → {after or EMPTY}", highlight=False)


def _print_versions(versions: "Versions", json: bool) -> None:
    from service.storage.tables.table import TABLES_REVISION

    pending = [{"revision": revision, "title": versions.titles[revision]} for revision in versions.pending]
    if json:
        print_json({"current": versions.current, "newest": TABLES_REVISION, "pending": pending})
        return
    current = f"{versions.current} (of a newer version of Akin)" if versions.is_newer else versions.current
    output.print(f"current: {escape(current or 'no tables')}", highlight=False)
    output.print(f"newest:  {TABLES_REVISION}", highlight=False)
    for revision in versions.pending:
        output.print(f"pending: {revision}  {escape(versions.titles[revision])}", highlight=False)
