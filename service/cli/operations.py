"""akin retrain, akin operations, akin worker: request operations, show them, perform them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from service.cli.audit_recording import command_line_user, recorded
from service.cli.console import DetailedProgress, notes, output, print_json

if TYPE_CHECKING:
    from service.installation.installation import Installation
    from service.installation.settings import Settings
    from service.storage.tables.operations import Operation
    from service.web.schemas.operations import OperationView

app = typer.Typer(
    help="Retrains, builds of releases and imports over HTTP: list, show, follow, cancel.", no_args_is_help=True
)

# Without a terminal, a line is printed so often while a step reports progress.
_SECONDS_BETWEEN_LINES = 10.0

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(help="Id of an operation; the newest by default.")]


def retrain(
    preset: Annotated[str, typer.Option(help="A preset of `akin presets`.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, for example --set steps=2000; repeatable.")
    ] = None,
    base: Annotated[str, typer.Option(help="pretrained, or current: the active release's model.")] = "pretrained",
    since: Annotated[str, typer.Option(help="Only examples labelled since this time (ISO 8601).")] = "",
    archive: Annotated[Path | None, typer.Option(help="A zip of new labelled images, imported first.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="Change the gate's policy, for example --gate min_improvement=0.01; repeatable."),
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote whatever the gate decides; the reason is recorded.")
    ] = None,
    promote: Annotated[bool, typer.Option(help="Activate what passes the gate.")] = True,
    note: Annotated[str, typer.Option(help="Free text, recorded with the operation.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow the operation until it ends.")] = True,
    json: JsonOption = False,
) -> None:
    """Train on the labels, compare the model with the active release, and activate it if it is better.

    A worker (akin worker) performs this. The exit status is 0 on success, 3 if the gate rejected the model, and 1 if
    the operation failed or was cancelled.
    """
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.queueing import request_retrain
    from service.operations.requests import parse_retrain

    policy = _policy(gate or [])
    if force is not None:
        policy |= {"force": True, "force_reason": force}
    values = {
        "data": _time(since) if since else "all",
        "preset": preset,
        "overrides": set_ or [],
        "base": base,
        "gate": policy,
        "promote": "automatic" if promote else "manual",
        "note": note,
    }
    request = parse_retrain(values)
    with open_installation(load_settings()) as installation:
        with recorded(installation, "akin retrain") as event:
            queued = request_retrain(installation, request, archive, actor=command_line_user())
            event.target = queued.id
        _show_or_follow(installation, queued, wait, json)


def worker(
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Stop when no operation is queued or running, for a timer or a test.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address of the metrics. [AKIN_METRICS_HOST]")] = "",
    parent: Annotated[int | None, typer.Option("--end-with-parent", hidden=True)] = None,
) -> None:
    """Perform queued operations until SIGINT or SIGTERM; run one worker on each machine that may train.

    When it stops, training saves its state and the operation continues in the next worker. Other workers take over the
    operations of one that died.
    """
    from service.installation.logs import configure_logging
    from service.installation.metrics import metrics_port as serving_metrics
    from service.installation.settings import load_settings
    from service.worker.process import WorkerOptions, run_worker
    from training.processes.parent_process import end_with_parent

    settings = load_settings()
    configure_logging(settings.log_level)
    if parent is not None:
        end_with_parent(parent)

    def on_started(worker_id: str) -> None:
        notes.print(f"Worker {worker_id} started  (state: {settings.home.absolute()}; Ctrl+C stops)", highlight=False)

    options = WorkerOptions(until_idle=until_idle, on_started=on_started)
    with serving_metrics(options.metrics.registry, metrics_host or settings.metrics_host, metrics_port) as address:
        if address is not None:
            notes.print(f"Metrics at {address}", highlight=False)
        run_worker(settings, options)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The maximum number of operations.")] = 20,
    state: Annotated[str, typer.Option(help="Only operations in this state.")] = "",
    json: JsonOption = False,
) -> None:
    """List operations, newest first."""
    from service.cli.tables.operations import operations_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.queries import lacks_worker, list_operations
    from service.web.schemas.operations import OperationView

    with open_installation(load_settings()) as installation:
        found, _ = list_operations(installation.database, limit=limit, states=[state] if state else ())
        is_without_worker = lacks_worker(installation.database, *found)
        if is_without_worker:
            _note_missing_worker(installation)
    views = [OperationView.of(operation, lacks_worker=is_without_worker) for operation in found]
    if json:
        print_json([view.model_dump(mode="json") for view in views])
    else:
        output.print(operations_table(views))


@app.command()
def show(operation_id: IdArgument = "", json: JsonOption = False) -> None:
    """Show an operation's state, progress and result."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.queries import find_operation, lacks_worker
    from service.web.schemas.operations import OperationView

    with open_installation(load_settings()) as installation:
        found = find_operation(installation.database, operation_id)
        view = OperationView.of(found, lacks_worker=lacks_worker(installation.database, found))
        if view.finished_at is None and not view.notes:
            _note_missing_worker(installation)
    if json:
        print_json(view.model_dump(mode="json"))
    else:
        _print(view)


@app.command()
def follow(operation_id: IdArgument = "", json: JsonOption = False) -> None:
    """Follow an operation until it ends; the exit status of an import with failed rows is 1."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.queries import find_operation

    with open_installation(load_settings()) as installation:
        _show_or_follow(installation, find_operation(installation.database, operation_id), True, json)


@app.command()
def cancel(operation_id: Annotated[str, typer.Argument(help="Id of an operation.")]) -> None:
    """Cancel an operation; its worker stops within seconds."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.cancelling import cancel_operation

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin operations cancel", operation_id),
    ):
        cancelled = cancel_operation(installation, operation_id)
    state = "is cancelled" if cancelled.state == "cancelled" else "will be cancelled; its worker stops within seconds"
    output.print(f"{operation_id} {state}", highlight=False)


@app.command()
def errors(
    operation_id: IdArgument = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    after: Annotated[int, typer.Option(min=0, help="Only those after this number.")] = 0,
    json: JsonOption = False,
) -> None:
    """List the rows of an import that failed and the files that were left out, each with its reason."""
    from service.cli.tables.operations import row_error_lines
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.queries import find_operation
    from service.operations.row_errors import list_row_errors
    from service.web.schemas.operations import RowErrorList

    with open_installation(load_settings()) as installation:
        found = find_operation(installation.database, operation_id).id
        page = list_row_errors(installation.database, found, limit=limit, after=after)
    view = RowErrorList.of(page, None)
    if json:
        print_json(view.model_dump(mode="json", exclude={"next"}))
        return
    for line in row_error_lines(view):
        output.print(escape(line), highlight=False)
    if page.has_more:
        output.print(f"more: --after {view.errors[-1].number}", highlight=False)


@contextmanager
def worker_beside(settings: "Settings") -> Iterator[Path]:
    """Run a worker in a process that ends with this one; yields the path of its log."""
    import os
    import subprocess
    import sys

    path = settings.home / "worker.log"
    command = [sys.executable, "-m", "service.cli.main", "worker", "--end-with-parent", str(os.getpid())]
    with path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603  # our own
    try:
        yield path
    finally:
        process.terminate()
        process.wait()


def _show_or_follow(installation: "Installation", operation: "Operation", wait: bool, json: bool) -> None:
    from service.cli.tables.operations import num_row_errors
    from service.web.schemas.operations import OperationView

    _note_missing_worker(installation)
    try:
        view = _follow(installation, operation.id) if wait else OperationView.of(operation)
    except KeyboardInterrupt:
        notes.print(f"{operation.id} continues; to follow it: akin operations follow {operation.id}", highlight=False)
        notes.print(f"to cancel it: akin operations cancel {operation.id}", highlight=False)
        raise typer.Exit(130) from None
    if json:
        print_json(view.model_dump(mode="json"))
    elif not wait:
        remedy = f"to follow it: akin operations follow {operation.id}"
        output.print(f"{operation.id} is {view.state}; {remedy}", highlight=False)
    else:
        _print(view)
    if wait and (view.state != "succeeded" or num_row_errors(view)):
        raise typer.Exit(3 if view.state == "rejected" else 1)


def _note_missing_worker(installation: "Installation") -> None:
    from service.operations.queries import has_living_worker

    if not has_living_worker(installation.database):
        notes.print(
            "[yellow]note:[/] no worker is running on this installation; start one: akin worker", highlight=False
        )


def _follow(installation: "Installation", operation_id: str) -> "OperationView":
    """Show an operation's progress until it has ended: a bar on a terminal, otherwise lines."""
    from time import monotonic

    from embedding.stages import describe_rates
    from service.cli.tables.operations import progress_line
    from service.operations.queries import follow_operation
    from service.web.schemas.operations import OperationView

    printed_step, printed_at = "", 0.0
    with _progress_bar() as bars:
        task = bars.add_task("queued", total=None)
        for operation in follow_operation(installation.database, operation_id):
            view = OperationView.of(operation)
            progress = view.progress
            bars.detail = describe_rates((progress and progress.stage_rates) or {})
            if progress and progress.total:
                bars.update(task, description=progress.stage, completed=progress.done or 0, total=progress.total)
            else:
                stage = progress.stage if progress else (view.step or view.state)
                bars.update(task, description=stage, total=None)
            is_new_step = f"{view.state} {view.step}" != printed_step
            is_due = progress is not None and monotonic() - printed_at >= _SECONDS_BETWEEN_LINES
            if not notes.is_terminal and view.finished_at is None and (is_new_step or is_due):
                printed_step, printed_at = f"{view.state} {view.step}", monotonic()
                notes.print(escape(progress_line(view)), highlight=False)
    return view


def _progress_bar() -> DetailedProgress:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    return DetailedProgress(*columns, console=notes, disable=not notes.is_terminal, transient=True)


def _print(view: "OperationView") -> None:
    from service.cli.tables.operations import operation_lines

    for line in operation_lines(view):
        output.print(escape(line), highlight=False)


def _policy(changes: list[str]) -> dict[str, Any]:
    from json import JSONDecodeError, loads

    from service.operations.errors import InvalidOperation

    policy: dict[str, Any] = {}
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator:
            raise InvalidOperation(f"--gate {change}: write NAME=VALUE, for example --gate min_improvement=0.01")
        try:
            policy[name] = loads(text)
        except JSONDecodeError:
            policy[name] = text
    return policy


def _time(text: str) -> str:
    from datetime import datetime

    from service.operations.errors import InvalidOperation

    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        raise InvalidOperation(f"--since {text}: write a time such as 2025-03-01 or 2025-03-01T10:00:00Z") from None
