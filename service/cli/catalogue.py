"""akin catalogue: fill the catalogue, say what its images show, and look at it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.console import notes, output, print_json, progress_bar
from service.cli.recording import recorded

if TYPE_CHECKING:
    from service.catalogue.reports import Report
    from service.catalogue.sources import ImportSource, RowError
    from service.installation.settings import Settings
    from service.labels.sources import LabelSource

app = typer.Typer(help="Fill the catalogue, say what its images show, and look at it.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")]
ReportAsJSON = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
By = Annotated[str | None, typer.Option(help="Who labelled, where a row does not say.")]
Source = Annotated[str, typer.Option(help="On what ground, kept with each change.")]

_MOST_ERRORS_SHOWN = 20


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(help="A folder per product, a CSV / NDJSON file, GroceryStoreDataset, or a zip of one."),
    ],
    dry_run: DryRun = False,
    json: ReportAsJSON = False,
) -> None:
    """Import products and images; safe to repeat, and to go on with after it was cut off.

    Bad rows are reported and do not stop the others; the exit status is then 1.
    """
    from service.catalogue.importing import import_catalogue
    from service.cli.tables.catalogue import import_table
    from service.demo.preparation import is_demo_home
    from service.installation.installation import open_for_dry_run, open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    with ExitStack() as stack:
        source = stack.enter_context(_import_source(path, settings))
        if is_demo_home(settings):
            notes.print(
                f"[yellow]warning:[/] {settings.home} holds the demo's catalogue, and these products are added to it; "
                "set AKIN_HOME to another folder for a catalogue of their own",
                highlight=False,
            )
        installation = stack.enter_context(open_for_dry_run(settings) if dry_run else open_installation(settings))
        stack.enter_context(recorded(installation, "akin catalogue import", str(path), is_dry_run=dry_run))
        move = stack.enter_context(progress_bar("Importing"))
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
    _end_with_errors(report, report.errors, len(report.errors), settings, "import", is_kept=not dry_run)


@app.command()
def label(
    path: Annotated[
        Path, typer.Argument(help="A CSV / NDJSON file, a folder per class, a zip of either, or one image.")
    ],
    shows: Annotated[
        str | None, typer.Option("--as", help="For one image: the product's id, or the label that it shows.")
    ] = None,
    by: By = None,
    source: Source = "command line",
    dry_run: DryRun = False,
    json: ReportAsJSON = False,
) -> None:
    """Take labels in: what images of the catalogue show, and new labelled images, which become examples.

    Safe to repeat. Bad rows are reported and do not stop the others; the exit status is then 1.
    """
    from service.cli.tables.labels import label_report_table
    from service.installation.installation import open_for_dry_run, open_installation
    from service.installation.settings import load_settings
    from service.labels.applying import apply_labels

    settings = load_settings()
    with ExitStack() as stack:
        labels = stack.enter_context(_label_source(path, shows, settings))
        installation = stack.enter_context(open_for_dry_run(settings) if dry_run else open_installation(settings))
        stack.enter_context(recorded(installation, "akin catalogue label", str(path), is_dry_run=dry_run))
        move = stack.enter_context(progress_bar("Labelling", "rows"))
        report = apply_labels(
            installation,
            labels,
            actor=_who(by),
            source_name=source,
            dry_run=dry_run,
            on_progress=move,
        )
    if json:
        print_json(report.to_json())
    else:
        output.print(label_report_table(report))
    _end_with_errors(report, report.errors, report.num_failed, settings, "labels", is_kept=not dry_run)


@app.command()
def relabel(
    image_id: Annotated[str, typer.Argument(help="Id of the image; see: akin catalogue labels")],
    label: Annotated[str | None, typer.Argument(help="What it shows.")] = None,
    own: Annotated[bool, typer.Option("--own", help="Its product's own label again.")] = False,
    by: By = None,
    source: Source = "command line",
) -> None:
    """Say what one image of the catalogue shows."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.labels.applying import apply_labels
    from service.labels.errors import InvalidLabels
    from service.labels.sources import single_label

    if (label is None) != own:
        raise InvalidLabels("say what the image shows: give a label, or --own for its product's")
    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin catalogue relabel", image_id),
    ):
        report = apply_labels(installation, single_label(image_id, label), actor=_who(by), source_name=source)
        if report.errors:
            raise InvalidLabels(report.errors[0].message)
    output.print("changed; now: akin retrain" if report.num_changed else "unchanged", highlight=False)


@app.command()
def labels(
    counts: Annotated[bool, typer.Option("--counts", help="Count them by label instead.")] = False,
    label: Annotated[str | None, typer.Option(help="Only images of this label.")] = None,
    role: Annotated[str | None, typer.Option(help="Only those of this role: catalogue or example.")] = None,
    state: Annotated[str | None, typer.Option(help="Only those that are train, validation or test.")] = None,
    after: Annotated[str | None, typer.Option(help="Only those after this image id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 50,
    json: AsJSON = False,
) -> None:
    """List images with their labels, and what training does with each."""
    from service.cli.tables.labels import class_counts_table, labels_table
    from service.errors import InvalidParameter
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.labels.listing import STATES, count_labels, list_labels, take_overview
    from service.storage.tables.catalogue import ROLES
    from service.web.schemas.labels import ClassCountsView, LabelCounts, LabelView

    for name, value, allowed in (("role", role, ROLES), ("state", state, STATES)):
        if value is not None and value not in allowed:
            raise InvalidParameter(f"--{name} must be one of {', '.join(allowed)}, got {value!r}")
    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        overview = take_overview(session)
        if counts:
            total, classes = count_labels(session, overview)
        else:
            found, following = list_labels(
                session, overview, label=label, role=role, state=state, after=after, limit=limit
            )
    if counts:
        views = [ClassCountsView.of_class(name, number) for name, number in classes.items() if label in (None, name)]
        if json:
            print_json({"total": LabelCounts.of(total).model_dump(), "classes": [view.model_dump() for view in views]})
        else:
            output.print(class_counts_table(views, LabelCounts.of(total)))
        return
    rows = [LabelView.of(facts, "/v1/admin/media") for facts in found]
    if json:
        print_json({"labels": [row.model_dump(mode="json") for row in rows], "next": following})
        return
    output.print(labels_table(rows))
    if following:
        output.print(f"more: --after {following}", highlight=False)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    products: Annotated[int, typer.Option(min=1, max=10_000, help="How many products.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other products.")] = 0,
) -> None:
    """Draw a catalogue of packaged products to try Akin with: images, catalogue.csv and queries.csv."""
    from service.demo.sample.catalogue import write_sample_catalogue

    with progress_bar("Drawing") as move:
        written = write_sample_catalogue(out, num_products=products, seed=seed, on_progress=move)
    images = f"{written.num_examples} examples, {written.num_queries} held-out queries"
    output.print(f"{out}: {written.num_products} products, {images}", highlight=False)
    output.print(f"next: akin catalogue import {out}", highlight=False)


@app.command()
def show(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Count what is in the catalogue."""
    from dataclasses import asdict

    from service.catalogue.records import count_catalogue
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    with open_installation(settings) as installation, installation.database.reading() as session:
        counts = count_catalogue(session)
    if json:
        print_json(asdict(counts))
        return
    images = ", ".join(f"{number} images of role {role}" for role, number in counts.num_images.items())
    output.print(f"{counts.num_products} products, {images} (in {settings.home.absolute()})", highlight=False)


@app.command()
def remove(product_ids: Annotated[list[str], typer.Argument(help="Ids of the products.")]) -> None:
    """Remove products with their images; the next release is without them."""
    from service.catalogue.records import remove_products
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin catalogue remove", " ".join(product_ids)),
        installation.database.transaction() as session,
    ):
        num_images = remove_products(session, product_ids)
    output.print(f"removed {len(set(product_ids))} products with {num_images} images; now: akin index build")


@contextmanager
def _import_source(path: Path, settings: "Settings") -> "Iterator[ImportSource]":
    """Open what is to be imported, unpacked for as long as it is read."""
    from service.catalogue.sources import read_import_source
    from service.catalogue.unpacking import unpacked_here

    if path.is_file() and path.suffix.lower() == ".zip":
        with unpacked_here(path, settings) as folder:
            yield read_import_source(folder, is_trusted=False)
    else:
        yield read_import_source(path)


@contextmanager
def _label_source(path: Path, shows: str | None, settings: "Settings") -> "Iterator[LabelSource]":
    """Open labels, unpacked for as long as they are read."""
    from service.catalogue.sources import IMAGE_ENDINGS
    from service.catalogue.unpacking import unpacked_here
    from service.labels.errors import InvalidLabels
    from service.labels.sources import read_label_source, single_image

    is_image = path.is_file() and path.suffix.lower() in IMAGE_ENDINGS
    if shows is not None and not is_image:
        raise InvalidLabels(f"--as says what one image shows, and {path} is none; leave it out")
    if is_image and shows is None:
        raise InvalidLabels(f"nothing says what {path} shows; give --as with the product's id or a label")
    if is_image:
        yield single_image(path, product_id=None, label=shows)
    elif path.is_file() and path.suffix.lower() == ".zip":
        with unpacked_here(path, settings) as folder:
            yield read_label_source(folder)
    else:
        yield read_label_source(path, is_trusted=True)


def _who(by: str | None) -> str:
    from service.access.scopes import COMMAND_LINE

    return by or COMMAND_LINE


def _end_with_errors(
    report: "Report", errors: "list[RowError]", num_errors: int, settings: "Settings", kind: str, *, is_kept: bool
) -> None:
    """Show the rows that failed, keep all of them in a file, and end with status 1; without any, do nothing."""
    from service.catalogue.reports import write_import_report

    for error in errors[:_MOST_ERRORS_SHOWN]:
        notes.print(f"[red]{escape(error.location)}:[/] {escape(error.message)}", highlight=False)
    if num_errors:
        where = f"; all of them: {write_import_report(report, settings.reports_dir, kind)}" if is_kept else ""
        done = "imported" if kind == "import" else "used"
        notes.print(f"{num_errors:,} rows were not {done}{where}", highlight=False)
        raise typer.Exit(1)
