"""akin catalogue: import products, set labels of images, list and remove them."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from service.cli.audit_recording import recorded
from service.cli.console import notes, output, print_json, progress_bar
from service.cli.layouts import LayoutOption, checked_layout, exit_if_left_out, show_left_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.catalogue.sources import RowError
    from service.labels.intake import OpenLabels

app = typer.Typer(help="Import products, set labels of images, list and remove them.", no_args_is_help=True)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and check everything, write nothing.")]
ReportAsJSON = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
By = Annotated[str | None, typer.Option(help="Who set the labels, unless a row names somebody.")]
Source = Annotated[str, typer.Option(help="Where the labels come from, kept with each change.")]

_NUM_SHOWN_ERRORS = 20


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(help="A folder per product, a CSV / NDJSON file, GroceryStoreDataset, or a zip of one."),
    ],
    layout: LayoutOption = "auto",
    dry_run: DryRun = False,
    json: ReportAsJSON = False,
) -> None:
    """Import products and images. Safe to repeat and to resume.

    Bad rows, and images that are left out, are reported and do not stop the others; the exit status is then 1.
    """
    from service.catalogue.importing import import_path
    from service.cli.tables.catalogue import import_table
    from service.demo.preparation import is_demo_home
    from service.installation.installation import open_for_dry_run, open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    if is_demo_home(settings):
        notes.print(
            f"[yellow]warning:[/] {settings.home} holds the demo's catalogue, and these products are added to it; "
            "set AKIN_HOME to another folder for a separate catalogue",
            highlight=False,
        )
    with ExitStack() as stack:
        installation = stack.enter_context(open_for_dry_run(settings) if dry_run else open_installation(settings))
        stack.enter_context(recorded(installation, "akin catalogue import", str(path), is_dry_run=dry_run))
        on_progress = stack.enter_context(progress_bar("Importing"))
        report = import_path(
            installation, path, layout=checked_layout(layout), dry_run=dry_run, on_progress=on_progress
        )
    if json:
        print_json(report.to_json())
    else:
        output.print(import_table(report))
    show_left_out(report.left_out, report.file)
    _exit_if_rows_failed(report.errors, report.num_failed, report.file, "imported")
    exit_if_left_out(report.left_out)


@app.command()
def label(
    path: Annotated[
        Path, typer.Argument(help="A CSV / NDJSON file, a folder per class, a zip of either, or one image.")
    ],
    shows: Annotated[str | None, typer.Option("--as", help="For one image: its product's id, or its label.")] = None,
    by: By = None,
    source: Source = "command line",
    layout: LayoutOption = "auto",
    dry_run: DryRun = False,
    json: ReportAsJSON = False,
) -> None:
    """Set labels of images of the catalogue, and add new labelled images as examples. Safe to repeat.

    Bad rows, and images that are left out, are reported and do not stop the others; the exit status is then 1.
    """
    from service.cli.tables.labels import label_report_table
    from service.installation.installation import open_for_dry_run, open_installation
    from service.installation.settings import load_settings
    from service.labels.intake import import_labels

    settings = load_settings()
    with ExitStack() as stack:
        open_labels = _labels_at(path, shows, layout)
        installation = stack.enter_context(open_for_dry_run(settings) if dry_run else open_installation(settings))
        stack.enter_context(recorded(installation, "akin catalogue label", str(path), is_dry_run=dry_run))
        on_progress = stack.enter_context(progress_bar("Labelling", "rows"))
        report = import_labels(
            installation,
            open_labels,
            actor=_actor(by),
            source_name=source,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    if json:
        print_json(report.to_json())
    else:
        output.print(label_report_table(report))
    show_left_out(report.left_out, report.file)
    _exit_if_rows_failed(report.errors, report.num_failed, report.file, "used")
    exit_if_left_out(report.left_out)


@app.command()
def relabel(
    image_id: Annotated[str, typer.Argument(help="Id of the image; see: akin catalogue labels")],
    label: Annotated[str | None, typer.Argument(help="The new label.")] = None,
    own: Annotated[bool, typer.Option("--own", help="Restore the label of the image's product.")] = False,
    by: By = None,
    source: Source = "command line",
) -> None:
    """Set the label of one image of the catalogue."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.labels.errors import InvalidLabels
    from service.labels.intake import set_label

    if (label is None) != own:
        raise InvalidLabels("give either a label, or --own for that of the image's product")
    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin catalogue relabel", image_id),
    ):
        report = set_label(installation, image_id, label, actor=_actor(by), source_name=source)
    output.print("changed; now: akin retrain" if report.num_changed else "unchanged", highlight=False)


@app.command()
def labels(
    counts: Annotated[bool, typer.Option("--counts", help="Print numbers of images by label instead.")] = False,
    label: Annotated[str | None, typer.Option(help="Only images with this label.")] = None,
    role: Annotated[str | None, typer.Option(help="Only images of this role: catalogue or example.")] = None,
    state: Annotated[str | None, typer.Option(help="Only images in this state: train, validation or test.")] = None,
    after: Annotated[str | None, typer.Option(help="Only images after this image id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 50,
    json: AsJSON = False,
) -> None:
    """List images with their labels, and what training does with each."""
    from service.cli.tables.labels import class_counts_table, labels_table
    from service.errors import InvalidParameter
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.labels.listing import LabelListing
    from service.labels.split_rule import STATES
    from service.storage.tables.catalogue import ROLES
    from service.web.schemas.labels import ADMIN_MEDIA_PATH, LabelCountsPage, LabelView

    for name, value, allowed in (("role", role, ROLES), ("state", state, STATES)):
        if value is not None and value not in allowed:
            raise InvalidParameter(f"--{name} must be one of {', '.join(allowed)}, got {value!r}")
    with open_installation(load_settings()) as installation:
        listing = LabelListing(installation.database, is_patient=True)
        if counts:
            counted = LabelCountsPage.of(listing.counts())
        else:
            page = listing.page(label=label, role=role, state=state, after=after, limit=limit)
    if counts:
        classes = [view for view in counted.classes if label in (None, view.label)]
        if json:
            print_json({"total": counted.total.model_dump(), "classes": [view.model_dump() for view in classes]})
        else:
            output.print(class_counts_table(classes, counted.total))
        return
    rows = [LabelView.of(facts, ADMIN_MEDIA_PATH) for facts in page.images]
    if json:
        print_json({"labels": [row.model_dump(mode="json") for row in rows], "next": page.next})
        return
    output.print(labels_table(rows))
    if page.next:
        output.print(f"more: --after {page.next}", highlight=False)


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="An empty folder, or one that does not exist.")],
    products: Annotated[int, typer.Option(min=1, max=10_000, help="How many products.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds draw other products.")] = 0,
) -> None:
    """Draw a catalogue of packaged products for a trial: images, catalogue.csv and queries.csv."""
    from service.demo.sample.catalogue import write_sample_catalogue

    with progress_bar("Drawing") as on_progress:
        written = write_sample_catalogue(out, num_products=products, seed=seed, on_progress=on_progress)
    images = f"{written.num_examples} examples, {written.num_queries} held-out queries"
    output.print(f"{out}: {written.num_products} products, {images}", highlight=False)
    output.print(f"next: akin catalogue import {out}", highlight=False)


@app.command()
def show(json: AsJSON = False) -> None:
    """Print the numbers of products and images."""
    from dataclasses import asdict

    from service.catalogue.queries import catalogue_counts
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    settings = load_settings()
    with open_installation(settings) as installation:
        counts = catalogue_counts(installation.database)
    if json:
        print_json(asdict(counts))
        return
    images = ", ".join(f"{number} images of role {role}" for role, number in counts.num_images.items())
    output.print(f"{counts.num_products} products, {images} (in {settings.home.absolute()})", highlight=False)


@app.command()
def remove(product_ids: Annotated[list[str], typer.Argument(help="Ids of the products.")]) -> None:
    """Remove products with their images; the next release does not contain them."""
    from service.catalogue.editing import delete_products
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin catalogue remove", " ".join(product_ids)),
    ):
        num_images = delete_products(installation.database, product_ids)
    output.print(f"removed {len(set(product_ids))} products with {num_images} images; now: akin index build")


def _labels_at(path: Path, label: str | None, layout: str) -> "OpenLabels":
    from service.labels.errors import InvalidLabels
    from service.labels.intake import open_path, without_unpacking
    from service.labels.sources import single_image
    from training.datasets.files import IMAGE_ENDINGS

    if path.is_file() and path.suffix.lower() in IMAGE_ENDINGS:
        if label is None:
            raise InvalidLabels(f"{path} has no label; give --as with the product's id or a label")
        return without_unpacking(partial(single_image, path, product_id=None, label=label))
    if label is not None:
        raise InvalidLabels(f"--as gives the label of one image, and {path} is not an image; omit --as")
    return partial(open_path, path, layout=checked_layout(layout))


def _actor(by: str | None) -> str:
    from service.access.scopes import COMMAND_LINE

    return by or COMMAND_LINE


def _exit_if_rows_failed(errors: "Sequence[RowError]", num_errors: int, report: Path | None, done: str) -> None:
    """Print the first failed rows and the file with all of them, and exit with status 1, if there are any."""
    for error in errors[:_NUM_SHOWN_ERRORS]:
        notes.print(f"[red]{escape(error.location)}:[/] {escape(error.message)}", highlight=False)
    if num_errors:
        where = f"; all of them: {report}" if report else ""
        notes.print(f"{num_errors:,} rows were not {done}{where}", highlight=False)
        raise typer.Exit(1)
