"""akin index and akin release: build releases and choose the active one."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.audit_recording import recorded
from service.cli.console import output, print_json, progress_bar

index_app = typer.Typer(help="Build the index over the catalogue.", no_args_is_help=True)
release_app = typer.Typer(help="List releases and choose the active one.", no_args_is_help=True)


@index_app.callback()
def _index() -> None:
    """Build the index over the catalogue."""


@index_app.command()
def build(
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Model to embed with (default: the active release's, or the untrained one)."),
    ] = None,
    activate: Annotated[bool, typer.Option(help="Activate the release.")] = True,
    structure: Annotated[str, typer.Option(help="auto, exact or ivf.")] = "auto",
    storage: Annotated[str, typer.Option(help="For ivf: auto, float16 or sq8.")] = "auto",
    nlist: Annotated[int | None, typer.Option(min=1, help="For ivf: number of lists.")] = None,
    nprobe: Annotated[int | None, typer.Option(min=1, help="For ivf: lists searched per query.")] = None,
    rescore: Annotated[int, typer.Option(min=1, help="For ivf: candidates rescored exactly, per hit.")] = 4,
    exact_below: Annotated[int, typer.Option(min=0, help="For auto: use exact below this number of images.")] = 50_000,
    min_ann_recall: Annotated[float, typer.Option(min=0, max=1, help="The build fails below this recall.")] = 0.95,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Embed new images, build and check the index, and publish a release."""
    from dataclasses import asdict

    from index.structures import IndexOptions
    from service.cli.tables.releases import built_table
    from service.errors import InvalidSetting
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.build import build_release

    try:
        options = IndexOptions(
            structure=structure,  # type: ignore[arg-type]  # checked by IndexOptions
            storage=storage,  # type: ignore[arg-type]  # checked by IndexOptions
            nlist=nlist,
            nprobe=nprobe,
            rescore=rescore,
            exact_below=exact_below,
            min_ann_recall=min_ann_recall,
        )
    except ValueError as error:
        raise InvalidSetting(str(error)) from error
    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin index build") as event,
        progress_bar("Embedding") as on_progress,
    ):
        built = build_release(
            installation, checkpoint=checkpoint, options=options, activate=activate, on_progress=on_progress
        )
        event.target = built.release_id
    if json:
        print_json(asdict(built))
    else:
        output.print(built_table(built))


@release_app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all releases, newest first."""
    from service.cli.tables.releases import releases_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.queries import list_releases
    from service.storage.database import in_utc

    with open_installation(load_settings()) as installation:
        listing = list_releases(installation.database)
    rows = [
        {
            "release_id": listed.release.id,
            "is_active": listed.is_active,
            "created_at": in_utc(listed.release.created_at).isoformat(timespec="seconds"),
            "num_products": listed.release.num_products,
            "num_images": listed.release.num_images,
            "space_id": listed.release.space_id,
            "index_id": listed.release.index_id,
            "watermark": listed.release.watermark,
        }
        for listed in listing.releases
    ]
    if json:
        print_json(rows)
    else:
        output.print(releases_table(rows))


@release_app.command()
def show(release_id: Annotated[str, typer.Argument(help="Id of a release (default: the active one).")] = "") -> None:
    """Verify every byte of a release and print its manifest."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.inspection import read_verified_manifest

    with open_installation(load_settings()) as installation:
        print_json(read_verified_manifest(installation, release_id or None))


@release_app.command()
def activate(
    release_id: Annotated[str, typer.Argument(help="Id of a release.")],
    reason: Annotated[str, typer.Option(help="Reason, recorded with the activation.")] = "",
) -> None:
    """Activate a release, new or old; running servers load it on their own."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.activation import activate_verified

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin release activate", release_id),
    ):
        activated = activate_verified(installation, release_id, reason=reason)
    output.print(f"{release_id} is {'now' if activated.has_changed else 'already'} active", highlight=False)


@release_app.command()
def rollback(
    to: Annotated[str | None, typer.Option(help="Id of a release (default: the previously active one).")] = None,
    reason: Annotated[str, typer.Option(help="Reason, recorded with the activation.")] = "",
) -> None:
    """Activate the previously active release; a second rollback undoes the first."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.activation import roll_back_verified

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin release rollback", to or "") as event,
    ):
        activated = roll_back_verified(installation, to=to, reason=reason)
        event.target = activated.release_id
    output.print(f"{activated.release_id} is {'now' if activated.has_changed else 'already'} active", highlight=False)


@release_app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List activations and rollbacks, newest first: what, when, by whom and why."""
    from service.cli.tables.releases import activations_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.queries import list_activations
    from service.storage.database import in_utc

    with open_installation(load_settings()) as installation:
        events = list_activations(installation.database, limit=limit)
    rows = [
        {
            "version": event.version,
            "release_id": event.release_id,
            "previous_release_id": event.previous_release_id,
            "activated_at": in_utc(event.activated_at).isoformat(timespec="seconds"),
            "activated_by": event.activated_by,
            "reason": event.reason,
            "operation_id": event.operation_id,
        }
        for event in events
    ]
    if json:
        print_json(rows)
    else:
        output.print(activations_table(rows))


@release_app.command()
def prune(
    keep: Annotated[
        int | None, typer.Option(min=0, help="How many of the newest to keep. [AKIN_RELEASE_RETENTION]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove old releases and unneeded embeddings; the active and previous release and those in use are kept."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.retention import retire_old_releases

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin release prune", is_dry_run=dry_run) as event,
    ):
        retired = retire_old_releases(installation, keep, dry_run=dry_run)
        event.target = " ".join(retired)
    if json:
        print_json({"retired": retired, "dry_run": dry_run})
        return
    for release_id in retired:
        output.print(f"{release_id} {'would be' if dry_run else 'is'} removed", highlight=False)
    if not retired:
        output.print("nothing to remove", highlight=False)
