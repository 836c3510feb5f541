"""akin evaluations: how models did, and where two of them differ."""

from typing import Annotated

import typer

from service.cli.console import output, print_json

app = typer.Typer(help="Look at evaluations and compare them.", no_args_is_help=True)


@app.command("list")
def list_(
    release: Annotated[str | None, typer.Option(help="Only those of this release.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List evaluations, the newest first."""
    from service.cli.tables.releases import evaluations_table
    from service.evaluations.records import evaluation_json, list_evaluations
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        rows = [evaluation_json(row) for row in list_evaluations(session, release_id=release, limit=limit)]
    if json:
        print_json(rows)
    else:
        output.print(evaluations_table(rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Id of an evaluation, or of a release: its newest evaluation.")],
) -> None:
    """Print all figures of an evaluation."""
    from service.evaluations.records import evaluation_json, find_evaluation
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        print_json(evaluation_json(find_evaluation(session, name)))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Id of an evaluation or a release: what was before.")],
    b: Annotated[str, typer.Argument(help="Id of an evaluation or a release: what came after.")],
    limit: Annotated[int, typer.Option(min=0, help="How many classes and queries to show each way.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what changed from one evaluation to another of the same queries, and how sure that is."""
    from service.cli.tables.releases import comparison_tables
    from service.evaluations.comparison import compare_evaluations
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation:
        comparison = compare_evaluations(installation, a, b, limit=limit)
    if json:
        print_json(comparison.to_json())
        return
    for table in comparison_tables(comparison):
        if table.row_count:
            output.print(table)
