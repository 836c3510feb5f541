"""akin admin-key: the key to the admin routes."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import notes, output

if TYPE_CHECKING:
    from service.installation import Installation


def admin_key(
    new: Annotated[bool, typer.Option("--new", help="Forget the key that was made before, and make another.")] = False,
) -> None:
    """Make the key to the admin routes and show it, once; with AKIN_ADMIN_KEY set, that is the key."""
    from service.admin_key import ensure_admin_key, remove_admin_keys
    from service.errors import InvalidSetting
    from service.installation import open_installation
    from service.settings import load_settings

    settings = load_settings()
    if settings.admin_key is not None:
        raise InvalidSetting("AKIN_ADMIN_KEY is set, and is the key; change it there")
    with open_installation(settings) as installation:
        if new:
            remove_admin_keys(installation.database)
        key = ensure_admin_key(installation.database, settings)
    if key is None:
        raise InvalidSetting("there is a key already, and only its hash is kept; lost it? akin admin-key --new")
    output.print(key, highlight=False)


def show_new_key(installation: "Installation") -> None:
    """Make the admin key where there is none, and show it: nobody can do so a second time."""
    from service.admin_key import ensure_admin_key

    key = ensure_admin_key(installation.database, installation.settings)
    if key is not None:
        notes.print(
            f"[bold]The admin key, shown this once:[/] {escape(key)}\n"
            "  send it as the header  Authorization: Bearer KEY  (lost it? akin admin-key --new)",
            highlight=False,
        )
