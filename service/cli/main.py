"""akin, the command line. Commands import inside their functions, so that each loads only what it needs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from embedding.errors import EmbeddingError
from index.errors import VectorIndexError
from service.cli import audit, catalogue, checkpoints, database, evaluations, keys, operations, releases
from service.cli.console import notes, output, print_json, progress_bar
from service.cli.keys import show_new_key
from service.cli.operations import worker_beside
from service.errors import ServiceError, reason_of
from service.serving.limits import DEFAULT_K, HIGHEST_SCORE, LOWEST_SCORE, MAX_K, MIN_K
from training.cli import add_commands as add_training_commands
from training.errors import TrainingError

if TYPE_CHECKING:
    from service.installation.settings import Settings

app = typer.Typer(
    name="akin",
    help="Find the products of a catalogue that look like a photo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(catalogue.app, name="catalogue")
app.add_typer(checkpoints.app, name="checkpoint")
app.add_typer(releases.index_app, name="index")
app.add_typer(releases.release_app, name="release")
app.add_typer(evaluations.app, name="evaluations")
app.add_typer(operations.app, name="operations")
app.command("retrain")(operations.retrain)
app.command("worker")(operations.worker)
app.command("migrate")(database.migrate)
app.add_typer(keys.app, name="keys")
app.command("admin-key")(keys.admin_key)
app.command("audit")(audit.audit)
add_training_commands(app)

PortOption = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. [AKIN_PORT]")]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on. [AKIN_HOST]")]


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a known error is one line and exit status 1, without a traceback."""
    try:
        app(arguments)
    except (ServiceError, TrainingError, EmbeddingError, VectorIndexError) as error:
        notes.print(f"[bold red]error:[/] {escape(reason_of(error))}", highlight=False)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        notes.print(f"[bold red]error:[/] {escape(where + (error.strerror or str(error)))}", highlight=False)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.print(f"akin {version('akin')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = (
        False
    ),
) -> None:
    from service.installation.settings import unknown_settings

    for name in unknown_settings():
        notes.print(f"[yellow]warning:[/] {name} is set, but Akin has no such setting", highlight=False)


@app.command()
def serve(port: PortOption = None, host: HostOption = None) -> None:
    """Serve the search over HTTP until SIGINT or SIGTERM."""
    from embedding.runtimes.network import choose_device
    from service.installation.installation import open_installation
    from service.installation.logs import configure_logging
    from service.installation.settings import load_settings
    from service.web.app import create_app
    from service.web.server import address_of, is_loopback, listen
    from service.web.server import serve as serve_app

    settings = load_settings()
    configure_logging(settings.log_level)
    # Report an unusable device, database or store here, rather than in the log of a server that then ends.
    choose_device(settings.device, settings.precision)
    with open_installation(settings) as installation:
        show_new_key(installation)
    with listen(host or settings.host, settings.port if port is None else port) as listener:
        if warning := search_warning(settings, is_loopback(listener)):
            notes.print(f"[yellow]warning:[/] {warning}", highlight=False)
        notes.print(f"Akin listens on {address_of(listener)}  (state: {settings.home.absolute()})", highlight=False)
        if serve_app(create_app(settings, is_loopback=is_loopback(listener)), listener):
            raise typer.Exit(1)  # requests were cancelled


def search_warning(settings: "Settings", is_loopback: bool) -> str | None:
    """Return a warning if searching without a key is open to more clients than may be intended."""
    if settings.public_search is True and not is_loopback:
        return "with AKIN_PUBLIC_SEARCH=true, every client that can reach this server can search"
    if settings.public_search == "auto" and settings.trusted_proxies and is_loopback:
        return (
            "the server listens on loopback, so searching needs no key, not even through the gateways of "
            "AKIN_TRUSTED_PROXIES; set AKIN_PUBLIC_SEARCH to true or false"
        )
    return None


@app.command()
def search(
    file: Annotated[Path, typer.Argument(help="The image to search with.")],
    k: Annotated[int, typer.Option("--k", "-k", min=MIN_K, max=MAX_K, help="How many products.")] = DEFAULT_K,
    min_score: Annotated[
        float | None, typer.Option(min=LOWEST_SCORE, max=HIGHEST_SCORE, help="Leave out what scores less.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the products that look like an image, with the active release; no server is needed."""
    from service.cli.tables.search import hits_table, result_json
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.serving.local import search_locally

    with open_installation(load_settings()) as installation:
        result = search_locally(installation, file, k, min_score)
    if json:
        print_json(result_json(result))
    else:
        output.print(hits_table(result))


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check versions, devices, weights, database and folders, and suggest remedies."""
    from service.cli.doctor import Status, examine
    from service.cli.tables.doctor import doctor_table
    from service.installation.settings import load_settings

    findings = examine(load_settings())
    if json:
        print_json([finding.to_json() for finding in findings])
    else:
        output.print(doctor_table(findings))
    if any(finding.status is Status.PROBLEM for finding in findings):
        raise typer.Exit(1)


@app.command()
def demo(
    port: PortOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Search with held-out images, print recall@1 and exit.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Train on the labelled images first; takes minutes.")] = False,
) -> None:
    """Import a small catalogue, build a release and serve it.

    Images: a folder per product or the GroceryStoreDataset where AKIN_DEMO_DATA names it, otherwise a catalogue
    that Akin draws.
    """
    from service.demo.preparation import check_demo, prepare_demo
    from service.installation.installation import open_installation
    from service.installation.logs import configure_logging
    from service.installation.settings import load_settings
    from service.serving.inference import run_in_own_thread
    from service.web.app import create_app
    from service.web.server import address_of, is_loopback, listen, running
    from service.web.server import serve as serve_app

    settings = load_settings()
    configure_logging("warning")

    def announce(text: str) -> None:
        output.print(escape(text), highlight=False)

    # Listen first, so that a port in use is reported before any work. A check uses a free port.
    with listen(settings.host, 0 if check else settings.port if port is None else port) as listener:
        with open_installation(settings) as installation, progress_bar("Working") as move:
            # Not in the main thread, which serves afterwards.
            prepared = run_in_own_thread(lambda: prepare_demo(installation, announce=announce, on_progress=move))
            if train:
                from service.demo.training import train_demo

                untrained = prepared
                prepared = run_in_own_thread(
                    lambda: train_demo(installation, untrained, announce=announce, on_progress=move)
                )
            if not check:
                show_new_key(installation)
        application = create_app(settings, is_loopback=is_loopback(listener))
        if check:
            with running(application, listener) as address:
                check_demo(prepared, address, announce=announce)
        else:
            with worker_beside(settings) as log_file:
                announce(f"A worker runs the jobs of /admin/retrain  (log: {log_file})")
                announce(f"Serving at {address_of(listener)}  (Ctrl+C stops)")
                if serve_app(application, listener):
                    raise typer.Exit(1)  # requests were cancelled


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP interface."""
    from service.installation.settings import load_settings
    from service.web.app import create_app

    print_json(create_app(load_settings()).openapi())


if __name__ == "__main__":
    main()
