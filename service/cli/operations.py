"""akin retrain, akin operations, akin worker: ask for work, look at it, do it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from service.cli.console import notes, output, print_json
from service.cli.recording import command_line_user, recorded

if TYPE_CHECKING:
    from service.installation.installation import Installation
    from service.installation.settings import Settings
    from service.web.schemas.operations import OperationView

app = typer.Typer(help="Work that outlasts a request: list, show, follow, cancel.", no_args_is_help=True)

_POLL_SECONDS = 0.5
_ENDED_WELL = ("succeeded",)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(help="Id of an operation; default: the newest.")]


def retrain(
    preset: Annotated[str, typer.Option(help="A preset of `akin presets`.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one knob, for example --set steps=2000; repeatable.")
    ] = None,
    base: Annotated[str, typer.Option(help="pretrained, or current: the active release's model.")] = "pretrained",
    since: Annotated[str, typer.Option(help="Only examples labelled since this time (ISO 8601).")] = "",
    archive: Annotated[Path | None, typer.Option(help="A zip of new labelled images, taken in first.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="Change the gate's policy, for example --gate min_improvement=0.01; repeatable."),
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote whatever the gate says; the reason is recorded.")
    ] = None,
    promote: Annotated[bool, typer.Option(help="Activate what passes the gate.")] = True,
    note: Annotated[str, typer.Option(help="For people.")] = "",
    wait: Annotated[bool, typer.Option(help="Follow it until it ends.")] = True,
    json: JsonOption = False,
) -> None:
    """Train on the labels, prove the result against the active release, and serve it if it is better.

    The work is done by a worker (akin worker). The exit status is 0 when a release came of it, 3 when the gate
    rejected it, 1 when it failed or was cancelled.
    """
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.queueing import ask_for_retrain
    from service.operations.requests import parse_retrain

    policy = _policy(gate or [])
    if force is not None:
        policy |= {"force": True, "force_reason": force}
    asked = {
        "data": _time(since) if since else "all",
        "preset": preset,
        "overrides": set_ or [],
        "base": base,
        "gate": policy,
        "promote": "automatic" if promote else "manual",
        "note": note,
    }
    request = parse_retrain(asked)
    with open_installation(load_settings()) as installation:
        with recorded(installation, "akin retrain") as event:
            event.target = operation_id = ask_for_retrain(installation, request, archive, actor=command_line_user())
        _follow_or_tell(installation, operation_id, wait, json)


def worker(
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when there is nothing left to do, for a timer or a test.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve Prometheus metrics on this port; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for them. [AKIN_METRICS_HOST]")] = "",
    parent: Annotated[int | None, typer.Option("--end-with-parent", hidden=True)] = None,
) -> None:
    """Do the work that operations ask for, until SIGINT or SIGTERM; run one on each machine that may train.

    Asked to end, it lets training save its state; the operation goes on when a worker is there again. Work of a worker
    that never comes back is taken over by the others.
    """
    from service.installation.logs import configure_logging
    from service.installation.metrics import metrics_port as serving_metrics
    from service.installation.settings import load_settings
    from service.worker.process import WorkerHooks, run_worker
    from training.parent_process import end_with_parent

    settings = load_settings()
    configure_logging(settings.log_level)
    if parent is not None:
        end_with_parent(parent)

    def started(worker_id: str) -> None:
        notes.print(f"Akin works as {worker_id}  (state: {settings.home.absolute()}; Ctrl+C stops)", highlight=False)

    hooks = WorkerHooks(until_idle=until_idle, started=started)
    with serving_metrics(hooks.metrics.registry, metrics_host or settings.metrics_host, metrics_port) as address:
        if address is not None:
            notes.print(f"Metrics at {address}", highlight=False)
        run_worker(settings, hooks)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    state: Annotated[str, typer.Option(help="Only those in this state.")] = "",
    json: JsonOption = False,
) -> None:
    """List operations, the newest first."""
    from service.cli.tables.operations import operations_table
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.errors import InvalidOperation
    from service.operations.records import list_operations
    from service.storage.tables.operations import OPERATION_STATES
    from service.web.schemas.operations import OperationView

    if state and state not in OPERATION_STATES:
        raise InvalidOperation(f"there is no state {state!r}; states are {', '.join(OPERATION_STATES)}")
    with open_installation(load_settings()) as installation, installation.database.reading() as session:
        found = list_operations(session, limit=limit, states=[state] if state else ())
        views = [OperationView.of(operation) for operation in found]
    if json:
        print_json([view.model_dump(mode="json") for view in views])
    else:
        output.print(operations_table(views))


@app.command()
def show(operation_id: IdArgument = "", json: JsonOption = False) -> None:
    """Show how far an operation is, or how it ended and why."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation:
        view = _view(installation, operation_id)
        if view.finished_at is None:
            _note_missing_worker(installation)
    if json:
        print_json(view.model_dump(mode="json"))
    else:
        _print(view)


@app.command()
def follow(operation_id: IdArgument = "", json: JsonOption = False) -> None:
    """Follow an operation until it ends."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings

    with open_installation(load_settings()) as installation:
        _follow_or_tell(installation, _view(installation, operation_id).operation_id, True, json)


@app.command()
def cancel(operation_id: Annotated[str, typer.Argument(help="Id of an operation.")]) -> None:
    """Cancel an operation; a worker that has it stops within seconds."""
    from service.installation.installation import open_installation
    from service.installation.settings import load_settings
    from service.operations.records import request_cancel

    with (
        open_installation(load_settings()) as installation,
        recorded(installation, "akin operations cancel", operation_id),
    ):
        cancelled = request_cancel(installation.database, operation_id)
    said = "is cancelled" if cancelled.state == "cancelled" else "is to be cancelled; its worker stops it"
    output.print(f"{operation_id} {said}", highlight=False)


@contextmanager
def worker_beside(settings: "Settings") -> Iterator[Path]:
    """Run a worker in a process that ends with this one; gives the file of its log."""
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


def _follow_or_tell(installation: "Installation", operation_id: str, wait: bool, json: bool) -> None:
    _note_missing_worker(installation)
    try:
        view = _follow(installation, operation_id) if wait else _view(installation, operation_id)
    except KeyboardInterrupt:
        notes.print(f"{operation_id} goes on; follow it: akin operations follow {operation_id}", highlight=False)
        notes.print(f"cancel it: akin operations cancel {operation_id}", highlight=False)
        raise typer.Exit(130) from None
    if json:
        print_json(view.model_dump(mode="json"))
    elif not wait:
        output.print(
            f"{operation_id} is {view.state}; follow it: akin operations follow {operation_id}", highlight=False
        )
    else:
        _print(view)
    if wait and view.state not in _ENDED_WELL:
        raise typer.Exit(3 if view.state == "rejected" else 1)


def _note_missing_worker(installation: "Installation") -> None:
    from service.operations.queueing import has_worker

    if not has_worker(installation):
        notes.print("[yellow]note:[/] no worker runs on this installation; start one: akin worker", highlight=False)


def _follow(installation: "Installation", operation_id: str) -> "OperationView":
    import time

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    said = ""
    with Progress(*columns, console=notes, disable=not notes.is_terminal, transient=True) as bars:
        task = bars.add_task("queued", total=None)
        while True:
            view = _view(installation, operation_id)
            if view.finished_at is not None:
                return view
            stage = view.progress.stage if view.progress else (view.step or view.state)
            if view.progress and view.progress.total:
                bars.update(task, description=stage, completed=view.progress.done or 0, total=view.progress.total)
            else:
                bars.update(task, description=stage, total=None)
            # Off a terminal a line for each step, since silence would be a riddle.
            if not notes.is_terminal and f"{view.state} {view.step}" != said:
                said = f"{view.state} {view.step}"
                notes.print(f"{operation_id}: {view.state}{f', {view.step}' if view.step else ''}", highlight=False)
            time.sleep(_POLL_SECONDS)


def _view(installation: "Installation", operation_id: str) -> "OperationView":
    from service.operations.errors import OperationNotFound
    from service.operations.records import get_operation, list_operations
    from service.web.schemas.operations import OperationView

    with installation.database.reading() as session:
        if operation_id:
            return OperationView.of(get_operation(session, operation_id))
        newest = list_operations(session, limit=1)
    if not newest:
        raise OperationNotFound("there are no operations yet; ask for one: akin retrain")
    return OperationView.of(newest[0])


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
