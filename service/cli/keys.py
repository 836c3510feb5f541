"""akin keys and akin admin-key: create, list, rotate and revoke keys."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.audit_recording import command_line_user, recorded
from service.cli.console import notes, output, print_json
from service.cli.times import parse_duration, parse_moment

if TYPE_CHECKING:
    from datetime import datetime

    from service.installation.installation import Installation

app = typer.Typer(help="Keys of this installation: create, list, rotate, revoke.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or id of a key.")]
Expires = Annotated[
    str,
    typer.Option(
        help="When the key expires: 90d from now, or at the start of 2027-01-31 (UTC). Default: never, or unchanged."
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key in lists and logs.")],
    scope: Annotated[list[str], typer.Option(help="search, catalogue:write or admin; repeatable.")],
    expires: Expires = "",
) -> None:
    """Create a key and print it. It cannot be shown again: only its hash is stored."""
    from service.access.keys import create_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    expires_at = _expiry(expires)
    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin keys create", f"{name} ({', '.join(scope)})"),
    ):
        row, key = create_key(installation.database, name, scope, actor=command_line_user(), expires_at=expires_at)
    _show(key, f"{row.name} may {', '.join(row.scopes)}")


@app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all keys, revoked ones included, oldest first."""
    from service.access.keys import list_keys
    from service.cli.tables.keys import keys_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.web.schemas.keys import KeyView

    with open_installation(load_settings()) as installation:
        views = [KeyView.of(row) for row in list_keys(installation.database)]
    if json:
        print_json([view.model_dump(mode="json") for view in views])
    else:
        output.print(keys_table(views))


@app.command()
def show(name: Name) -> None:
    """Print the name, scopes and times of a key; not the key itself, of which only the hash is stored."""
    from service.access.keys import show_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.web.schemas.keys import KeyView

    with open_installation(load_settings()) as installation:
        print_json(KeyView.of(show_key(installation.database, name)).model_dump(mode="json"))


@app.command()
def revoke(name: Name) -> None:
    """Revoke a key permanently; servers refuse it within seconds."""
    from service.access.key_ring import FRESH_SECONDS
    from service.access.keys import revoke_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    with open_installation(settings) as installation, recorded(installation, "akin keys revoke", name):
        row = revoke_key(installation.database, name, settings=settings)
    output.print(f"{row.name} is revoked; servers refuse it within {FRESH_SECONDS:g} s", highlight=False)


@app.command()
def rotate(
    name: Name,
    grace: Annotated[
        str, typer.Option(help="How long the old secret stays valid, such as 24h; 0 ends it at once.")
    ] = "24h",
    expires: Expires = "",
) -> None:
    """Replace the secret of a key and print the new key, once. The old secret stays valid for a while."""
    from service.access.keys import rotate_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    grace_period, expires_at = parse_duration(grace, "--grace"), _expiry(expires)
    with open_installation(load_settings()) as installation, recorded(installation, "akin keys rotate", name):
        row, key = rotate_key(installation.database, name, grace=grace_period, expires_at=expires_at)
    _show(key, f"{row.name} is rotated" + (f"; the old secret stays valid for {grace}" if grace_period else ""))


def admin_key(
    new: Annotated[bool, typer.Option("--new", help="Replace the key that was created before.")] = False,
) -> None:
    """Create the first key, with every scope, and print it once; `akin keys` creates others."""
    from service.access.keys import FIRST_KEY, issue_admin_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    with open_installation(settings) as installation, recorded(installation, "akin admin-key", FIRST_KEY):
        key = issue_admin_key(installation.database, settings, may_replace=new)
    output.print(key, highlight=False)


def show_new_key(installation: "Installation") -> None:
    """Create the admin key if there never was one, and show it; it cannot be shown again.

    Warns if there is no valid admin key, or one besides that of the settings.
    """
    from service.access.keys import FIRST_KEY, ensure_admin_key, has_admin, is_first_key_active

    settings, database = installation.settings, installation.database
    key = ensure_admin_key(database, settings)
    if key is not None:
        with recorded(installation, "first start", f"{FIRST_KEY} (admin)"):
            notes.print(
                f"[bold]The admin key, shown only now:[/] {escape(key)}\n"
                "  send it as the header  Authorization: Bearer KEY  (lost it? akin admin-key --new)",
                highlight=False,
            )
    elif settings.admin_key is not None and is_first_key_active(database):
        _warn(
            f"AKIN_ADMIN_KEY is set, and the key {FIRST_KEY!r} of an earlier start is also valid; "
            f"to revoke it: akin keys revoke {FIRST_KEY}"
        )
    elif not has_admin(database, settings):
        _warn("no valid key has the scope admin; create one: akin keys create NAME --scope admin")


def _show(key: str, note: str) -> None:
    # Only the key goes to standard output, so that scripts can use it.
    output.print(key, highlight=False)
    notes.print(f"{note}; the key cannot be shown again, only its hash is stored", highlight=False, markup=False)


def _warn(text: str) -> None:
    notes.print(f"[yellow]warning:[/] {escape(text)}", highlight=False)


def _expiry(text: str) -> "datetime | None":
    return parse_moment(text, "--expires", sign=1) if text else None
