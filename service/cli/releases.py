"""akin index and akin release: build what is served, and choose it."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import output, print_json, progress_bar
from service.cli.recording import recorded

index_app = typer.Typer(help="Build the index over the catalogue.", no_args_is_help=True)
release_app = typer.Typer(help="List releases and choose the one that is served.", no_args_is_help=True)


@index_app.callback()
def _index() -> None:
    """Build the index over the catalogue."""


@index_app.command()
def build(
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model to embed with (default: the active release's, else zero-shot).")
    ] = None,
    activate: Annotated[bool, typer.Option(help="Serve the release at once.")] = True,
    structure: Annotated[str, typer.Option(help="auto, exact or ivf.")] = "auto",
    storage: Annotated[str, typer.Option(help="Of ivf: auto, float16 or sq8.")] = "auto",
    nlist: Annotated[int | None, typer.Option(min=1, help="Of ivf: number of lists.")] = None,
    nprobe: Annotated[int | None, typer.Option(min=1, help="Of ivf: lists searched a query.")] = None,
    rescore: Annotated[int, typer.Option(min=1, help="Of ivf: candidates scored again exactly, per hit.")] = 4,
    exact_below: Annotated[int, typer.Option(min=0, help="Of auto: exact below so many images.")] = 50_000,
    min_ann_recall: Annotated[float, typer.Option(min=0, max=1, help="A build below this fails.")] = 0.95,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Embed what is new, build and check the index, and publish both as a release."""
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
        progress_bar("Embedding") as move,
    ):
        built = build_release(installation, checkpoint=checkpoint, options=options, activate=activate, on_progress=move)
        event.target = built.release_id
    if json:
        print_json(asdict(built))
    else:
        output.print(built_table(built))


@release_app.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List all releases, the newest first."""
    from service.cli.tables.releases import releases_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.records import active_release, list_releases
    from service.storage.database import in_utc

    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        active_id = active_release(session).release_id
        rows = [
            {
                "release_id": release.id,
                "is_active": release.id == active_id,
                "created_at": in_utc(release.created_at).isoformat(timespec="seconds"),
                "num_products": release.num_products,
                "num_images": release.num_images,
                "space_id": release.space_id,
                "index_id": release.index_id,
                "watermark": release.watermark,
            }
            for release in list_releases(session, with_retired=False)
        ]
    if json:
        print_json(rows)
    else:
        output.print(releases_table(rows))


@release_app.command()
def show(release_id: Annotated[str, typer.Argument(help="Id of a release; default: the active one.")] = "") -> None:
    """Verify every byte of a release and print its manifest."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.files import read_release_facts
    from service.releases.records import require_active_release

    settings = load_settings()
    if not release_id:
        with open_installation(settings) as installation, installation.database.reading() as session:
            release_id = require_active_release(session)
    print_json(read_release_facts(settings.releases_dir, release_id))


@release_app.command()
def activate(
    release_id: Annotated[str, typer.Argument(help="Id of a release.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the activation.")] = "",
) -> None:
    """Serve a release, an older one too; running servers take it up by themselves."""
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
    to: Annotated[str | None, typer.Option(help="Id of a release (default: the one that was active before).")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept with the activation.")] = "",
) -> None:
    """Serve the release that was active before the present one; once more, and it ends where it began."""
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
    """List activations and rollbacks, the newest first: what, when, who and why."""
    from service.cli.tables.releases import activations_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.releases.records import list_activations
    from service.storage.database import in_utc

    with open_installation(load_settings()) as installation, installation.database.reading() as session:
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
            for event in list_activations(session, limit=limit)
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove old releases, and embeddings that none needs; never what is served, was served before, or is in use."""
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
