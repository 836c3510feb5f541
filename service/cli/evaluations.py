"""akin evaluations: list, show and compare evaluations."""

from typing import Annotated

import typer

from service.cli.console import output, print_json

app = typer.Typer(help="List, show and compare evaluations.", no_args_is_help=True)


@app.command("list")
def list_(
    release: Annotated[str | None, typer.Option(help="Only those of this release.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List evaluations, newest first."""
    from service.cli.tables.evaluations import evaluations_table
    from service.evaluations.queries import evaluation_json, list_evaluations
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation:
        evaluations = list_evaluations(installation.database, release_id=release, limit=limit)
    rows = [evaluation_json(evaluation) for evaluation in evaluations]
    if json:
        print_json(rows)
    else:
        output.print(evaluations_table(rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Id of an evaluation, or of a release for its newest evaluation.")],
) -> None:
    """Print all metrics of an evaluation."""
    from service.evaluations.queries import evaluation_json, find_evaluation
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation:
        print_json(evaluation_json(find_evaluation(installation.database, name)))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Id of the earlier evaluation or release.")],
    b: Annotated[str, typer.Argument(help="Id of the later evaluation or release.")],
    limit: Annotated[int, typer.Option(min=0, help="Maximum length of each list of classes or queries.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what changed between two evaluations of the same queries, with confidence intervals."""
    from service.cli.tables.evaluations import comparison_tables
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
