"""akin keys and akin admin-key: make keys, list them, rotate them, take them back."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import notes, output

if TYPE_CHECKING:
    from service.installation import Installation


def admin_key(
    new: Annotated[bool, typer.Option("--new", help="Replace the key that was made before.")] = False,
) -> None:
    """Make the first key with every scope and show it, once; `akin keys` makes others."""
    from datetime import timedelta

    from service.access.keys import FIRST_KEY, ensure_admin_key, rotate_key
    from service.errors import InvalidSetting, KeyNotFound
    from service.installation import open_installation
    from service.settings import load_settings

    settings = load_settings()
    if settings.admin_key is not None:
        raise InvalidSetting("AKIN_ADMIN_KEY is set, and is the key; change it there")
    with open_installation(settings) as installation:
        key = ensure_admin_key(installation.database, settings)
        if key is None and new:
            try:
                _, key = rotate_key(installation.database, FIRST_KEY, grace=timedelta(0))
            except KeyNotFound:
                raise InvalidSetting(
                    "there is another key with the scope admin; `akin keys list` shows it, `akin keys rotate` renews it"
                ) from None
    if key is None:
        raise InvalidSetting("there is a key already, and only its hash is kept; lost it? akin admin-key --new")
    output.print(key, highlight=False)


def show_new_key(installation: "Installation") -> None:
    """Make the admin key where there is none, and show it: nobody can do so a second time."""
    from service.access.keys import ensure_admin_key

    key = ensure_admin_key(installation.database, installation.settings)
    if key is not None:
        notes.print(
            f"[bold]The admin key, shown this once:[/] {escape(key)}\n"
            "  send it as the header  Authorization: Bearer KEY  (lost it? akin admin-key --new)",
            highlight=False,
        )
