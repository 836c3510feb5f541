"""akin catalogue: fill the catalogue and look at it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from service.cli.console import notes, output, print_json, progress_bar

app = typer.Typer(help="Fill the catalogue and look at it.", no_args_is_help=True)

_MOST_ERRORS_SHOWN = 20


@app.command("import")
def import_(
    path: Annotated[
        Path, typer.Argument(help="A folder per product, a CSV / NDJSON file, or the GroceryStoreDataset.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Import products and pictures; safe to repeat, and to go on with after it was cut off.

    Bad rows are reported and do not stop the others; the exit status is then 1.
    """
    from service.catalogue_import import import_catalogue, write_import_report
    from service.cli.tables import import_table
    from service.demo import is_demo_home
    from service.import_sources import read_import_source
    from service.installation import open_for_dry_run, open_installation
    from service.settings import load_settings

    settings = load_settings()
    source = read_import_source(path)
    if is_demo_home(settings):
        notes.print(
            f"[yellow]warning:[/] {settings.home} holds the demo's catalogue, and these products are added to it; "
            "set AKIN_HOME to another folder for a catalogue of their own",
            highlight=False,
        )
    opened = open_for_dry_run(settings) if dry_run else open_installation(settings)
    with opened as installation, progress_bar("Importing") as move:
        report = import_catalogue(
            source,
            installation.database,
            installation.media_store,
            limits=installation.limits,
            dry_run=dry_run,
            on_progress=move,
        )
    if json:
        print_json(report.to_json())
    else:
        output.print(import_table(report))
    for error in report.errors[:_MOST_ERRORS_SHOWN]:
        notes.print(f"[red]{escape(error.location)}:[/] {escape(error.message)}", highlight=False)
    if report.errors:
        where = "" if dry_run else f"; all of them: {write_import_report(report, settings.reports_dir)}"
        notes.print(f"{len(report.errors)} rows were not imported{where}", highlight=False)
        raise typer.Exit(1)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    products: Annotated[int, typer.Option(min=1, max=10_000, help="How many products.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other products.")] = 0,
) -> None:
    """Draw a catalogue of packaged products to try Akin with: pictures, catalogue.csv and queries.csv."""
    from service.sample.catalogue import write_sample_catalogue

    with progress_bar("Drawing") as move:
        written = write_sample_catalogue(out, num_products=products, seed=seed, on_progress=move)
    pictures = f"{written.num_examples} examples, {written.num_queries} held-out queries"
    output.print(f"{out}: {written.num_products} products, {pictures}", highlight=False)
    output.print(f"next: akin catalogue import {out}", highlight=False)


@app.command()
def show(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Count what is in the catalogue."""
    from dataclasses import asdict

    from service.catalogue import count_catalogue
    from service.installation import open_installation
    from service.settings import load_settings

    settings = load_settings()
    with open_installation(settings) as installation, installation.database.reading() as session:
        counts = count_catalogue(session)
    if json:
        print_json(asdict(counts))
        return
    pictures = ", ".join(f"{number} pictures of role {role}" for role, number in counts.num_images.items())
    output.print(f"{counts.num_products} products, {pictures} (in {settings.home.absolute()})", highlight=False)


@app.command()
def remove(product_ids: Annotated[list[str], typer.Argument(help="Ids of the products.")]) -> None:
    """Remove products with their pictures; the next release is without them."""
    from service.catalogue import remove_products
    from service.installation import open_installation
    from service.settings import load_settings

    with open_installation(load_settings()) as installation, installation.database.transaction() as session:
        num_images = remove_products(session, product_ids)
    output.print(f"removed {len(set(product_ids))} products with {num_images} pictures; now: akin index build")
