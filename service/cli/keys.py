"""akin keys and akin admin-key: make keys, list them, rotate them, take them back."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import notes, output, print_json
from service.cli.recording import command_line_user, recorded
from service.cli.times import parse_duration, parse_moment

if TYPE_CHECKING:
    from datetime import datetime

    from service.installation.installation import Installation

app = typer.Typer(help="Keys to this installation: make, list, rotate, revoke.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or id of a key.")]
Expires = Annotated[
    str, typer.Option(help="When it ends: in 90d, or at 2027-01-31 (its beginning, UTC). Default: never, or as it was.")
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is called in lists and logs.")],
    scope: Annotated[list[str], typer.Option(help="search, catalogue:write or admin; repeatable.")],
    expires: Expires = "",
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
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
    """List all keys, revoked ones included, the oldest first."""
    from service.access.keys import list_keys
    from service.cli.tables.keys import keys_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.web.schemas.keys import KeyView

    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        views = [KeyView.of(row) for row in list_keys(session)]
    if json:
        print_json([view.model_dump(mode="json") for view in views])
    else:
        output.print(keys_table(views))


@app.command()
def show(name: Name) -> None:
    """Print what is known of a key; not the key, of which only the hash is kept."""
    from service.access.keys import get_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.web.schemas.keys import KeyView

    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        print_json(KeyView.of(get_key(session, name)).model_dump(mode="json"))


@app.command()
def revoke(name: Name) -> None:
    """Take a key back for good; servers refuse it within seconds."""
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
    grace: Annotated[str, typer.Option(help="How long the old one is good yet, such as 24h; 0: not at all.")] = "24h",
    expires: Expires = "",
) -> None:
    """Make a key anew under its name and print it, this once; the old one is good for a while yet."""
    from service.access.keys import rotate_key
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    lasting, expires_at = parse_duration(grace, "--grace"), _expiry(expires)
    with open_installation(load_settings()) as installation, recorded(installation, "akin keys rotate", name):
        row, key = rotate_key(installation.database, name, grace=lasting, expires_at=expires_at)
    _show(key, f"{row.name} is rotated; the old one is good for {grace} yet" if lasting else f"{row.name} is rotated")


def admin_key(
    new: Annotated[bool, typer.Option("--new", help="Replace the key that was made before.")] = False,
) -> None:
    """Make the first key with every scope and show it, once; `akin keys` makes others."""
    from datetime import timedelta

    from service.access.errors import KeyNotFound
    from service.access.keys import FIRST_KEY, ensure_admin_key, rotate_key
    from service.errors import InvalidSetting
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    if settings.admin_key is not None:
        raise InvalidSetting("AKIN_ADMIN_KEY is set, and is the key; change it there")
    with open_installation(settings) as installation, recorded(installation, "akin admin-key", FIRST_KEY):
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
    """Make the admin key where there is none, and show it: nobody can do so a second time.

    Warns of what its owner may not expect: nobody has such a key any more, or more keys are good than the settings'.
    """
    from service.access.keys import FIRST_KEY, ensure_admin_key, good_first_key, has_admin

    settings, database = installation.settings, installation.database
    key = ensure_admin_key(database, settings)
    if key is not None:
        with recorded(installation, "first start", f"{FIRST_KEY} (admin)"):
            notes.print(
                f"[bold]The admin key, shown this once:[/] {escape(key)}\n"
                "  send it as the header  Authorization: Bearer KEY  (lost it? akin admin-key --new)",
                highlight=False,
            )
    elif settings.admin_key is not None and good_first_key(database) is not None:
        _warn(
            f"AKIN_ADMIN_KEY is set, and the key {FIRST_KEY!r} that an earlier start made is good as well; "
            f"to take it back: akin keys revoke {FIRST_KEY}"
        )
    elif not has_admin(database, settings):
        _warn("no key is good for the admin routes; make one: akin keys create NAME --scope admin")


def _show(key: str, note: str) -> None:
    # The key alone on standard output, so that a script can take it.
    output.print(key, highlight=False)
    notes.print(f"{note}; this was shown once, and only its hash is kept", highlight=False, markup=False)


def _warn(text: str) -> None:
    notes.print(f"[yellow]warning:[/] {escape(text)}", highlight=False)


def _expiry(text: str) -> "datetime | None":
    return parse_moment(text, "--expires", sign=1) if text else None
