"""akin train, evaluate, snapshot: the commands of this room.

They run where only the usual machine-learning packages are, as `python -m training`, and are part of `akin` where all
of it is installed. Imports stand inside, so that each command loads what it needs.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.report.progress import TrainingProgress
    from training.run import RunOutcome

output = Console(soft_wrap=True)
notes = Console(stderr=True, soft_wrap=True)

_SAME_REQUEST_SECONDS = 1.0

DEFAULT_CACHE = Path("akin-data/cache")
DEFAULT_RUNS = Path("akin-data/runs")

_PART_TITLES = {"all": "all queries", "seen": "classes trained on", "unseen": "classes never trained on"}

Parts = dict[str, dict[str, float]]

DataOption = Annotated[
    Path,
    typer.Option(
        "--data", help="Labelled images: a folder per class, a CSV / NDJSON file, a published data set, a snapshot."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change one knob, for example --set projections.passes=4; repeatable.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this room to a command line."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("snapshot")(snapshot)
    app.command("presets")(presets)


def train(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoint, metrics and report; it must be new.")],
    preset: Annotated[str, typer.Option(help="A named configuration (akin presets).")] = "",
    config: Annotated[Path | None, typer.Option(help="A TOML file of knobs, in place of a preset.")] = None,
    set_: SetOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Short for --set steps=N.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Short for --set seed=N.")] = None,
    device: DeviceOption = "auto",
    cache: Annotated[Path, typer.Option(help="Where decoded images and features are kept between runs.")] = (
        DEFAULT_CACHE
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    json: JsonOption = False,
    progress_file: Annotated[Path | None, typer.Option("--progress-file", hidden=True)] = None,
    end_with_parent: Annotated[bool, typer.Option("--end-with-parent", hidden=True)] = False,
) -> None:
    """Learn an embedding from labelled images; writes a checkpoint and a report.

    Without --preset or --config, `head` where there is no GPU and `small` where there is one. On SIGTERM or Ctrl+C the
    run saves its state and ends; --resume goes on with it.
    """
    from training.report.progress import choose_progress
    from training.run import RunHooks, RunOptions
    from training.run import train as run_training

    overrides = [*(set_ or [])]
    overrides += [] if steps is None else [f"steps={steps}"]
    overrides += [] if seed is None else [f"seed={seed}"]
    chosen = _choose_config(preset, config, overrides, device)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    options = RunOptions(data, out, chosen, cache, device, resume, command)
    with _stop_request() as should_stop, stage_bar() as on_progress:
        # Only now, since from here on SIGTERM lets the state be saved.
        if end_with_parent:
            _end_with_parent()
        progress = choose_progress(notes)
        if progress_file is not None:
            progress, on_progress = _with_file(progress_file, progress, on_progress)
        outcome = run_training(options, RunHooks(progress, on_progress, should_stop, _announce))
    if not outcome.is_first:
        return
    if json:
        _print_json(_outcome_json(outcome))
    else:
        _print_outcome(outcome)


def evaluate(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="A checkpoint's folder.")],
    data: DataOption,
    part: Annotated[str, typer.Option(help="test, validation, or all: every image, nothing held out.")] = "test",
    set_: SetOption = None,
    ks: Annotated[str, typer.Option(help="Where recall is measured, parted by commas.")] = "1,2,4,8",
    clustering: Annotated[bool, typer.Option("--clustering", help="k-means too: NMI, AMI, pairwise F1.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show each class.")] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a checkpoint on labelled images: recall@k, R-precision, MAP@R, clustering.

    Where the images have roles, examples are searched among the catalogue's images; otherwise each image among
    all others. The split is that of `akin train` with the same --set split.… knobs.
    """
    from training.evaluation.checkpoints import evaluate_checkpoint

    with stage_bar() as on_progress:
        measured = evaluate_checkpoint(
            checkpoint,
            data,
            part=part,
            overrides=set_ or [],
            ks=_numbers(ks),
            clustering=clustering,
            device=device,
            on_progress=on_progress,
        )
    if json:
        _print_json(measured)
        return
    output.print(f"{measured['protocol']}", highlight=False)
    _print_parts({}, measured["metrics"])
    if clustering:
        figures = ", ".join(f"{name} {value}" for name, value in measured["clustering"].items())
        output.print(f"clustering: {figures}", highlight=False)
    if per_class:
        for row in measured["per_class"]:
            mark = " (unseen)" if row["is_unseen"] else ""
            output.print(
                f"  {escape(row['label'])}{mark}: recall@1 {row['recall_at_1']:.3f} of {row['num_queries']}",
                highlight=False,
            )


def snapshot(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
) -> None:
    """Copy labelled images into a snapshot: what a run reads, sealed with a hash, so that it can be repeated."""
    from training.data.snapshot import open_training_data, write_snapshot

    with stage_bar() as on_progress:
        taken = open_training_data(data, lambda done, total: on_progress("Reading", done, total))
        write_snapshot(taken, out)
    for note in taken.notes:
        _announce(note)
    for problem in taken.problems:
        notes.print(f"[red]{escape(problem.location)}:[/] {escape(problem.message)}", highlight=False)
    output.print(
        f"{out}: {len(taken.images)} images of {len(set(taken.labels))} classes, hash {taken.snapshot_hash[:16]}",
        highlight=False,
    )
    output.print(f"next: akin train --data {out} --out {DEFAULT_RUNS / 'first'}", highlight=False)


def presets(
    name: Annotated[str, typer.Argument(help="Print this one as TOML, to start a file of your own.")] = "",
) -> None:
    """List the presets of `akin train`, or print one."""
    from training.config import PRESETS_DIR, load_preset, preset_names

    if name:
        load_preset(name)
        print((PRESETS_DIR / f"{name}.toml").read_text(encoding="utf-8"), end="")  # noqa: T201  # a file to keep
        return
    for known in preset_names():
        first_line = (PRESETS_DIR / f"{known}.toml").read_text(encoding="utf-8").partition("\n")[0]
        output.print(f"{known:12s} {escape(first_line.removeprefix('# '))}", highlight=False)


def _choose_config(preset: str, path: Path | None, overrides: list[str], device: str) -> "TrainingConfig":
    from embedding.embedder import choose_device
    from training.config import load_config, load_preset
    from training.errors import InvalidConfig

    if preset and path:
        raise InvalidConfig("give --preset or --config, not both; --set changes single knobs of either")
    if path:
        return load_config(path, overrides)
    if not preset:
        preset = "small" if choose_device(device, "float32").type == "cuda" else "head"
        notes.print(f"preset {preset} (choose another with --preset)", highlight=False)
    return load_preset(preset, overrides)


def _end_with_parent() -> None:
    """Get SIGTERM when the process that started this one ends; stop at once where it has ended."""
    from training.parent_process import ParentGone, end_with_parent

    try:
        end_with_parent()
    except ParentGone as error:
        notes.print(f"{error}", highlight=False)
        raise typer.Exit(128 + signal.SIGTERM) from None


def _with_file(
    path: Path, progress: "TrainingProgress", on_progress: Callable[[str, int, int], None]
) -> tuple["TrainingProgress", Callable[[str, int, int], None]]:
    """Let a file follow what is shown."""
    from training.distributed import is_first_process
    from training.report.progress_file import ProgressFile

    file = ProgressFile(path, progress, is_writer=is_first_process)

    def move(stage: str, done: int, total: int) -> None:
        on_progress(stage, done, total)
        file.on_progress(stage, done, total)

    return file, move


def _numbers(text: str) -> tuple[int, ...]:
    from training.errors import InvalidConfig

    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InvalidConfig(f"--ks takes numbers above 0, parted by commas; got {text!r}")
    return numbers


def _announce(line: str) -> None:
    notes.print(f"[yellow]note:[/] {escape(line)}", highlight=False)


def _print_outcome(outcome: "RunOutcome") -> None:
    if outcome.checkpoint is None:
        remedy = "go on with --resume" if outcome.steps else "start it again with --resume; what was computed is kept"
        output.print(f"stopped after step {outcome.steps}; {remedy}", highlight=False)
        return
    _print_parts(outcome.before, outcome.after)
    output.print(f"checkpoint: {outcome.checkpoint}", highlight=False)
    output.print(f"report:     {outcome.report}", highlight=False)
    output.print(f"next: akin index build --checkpoint {outcome.checkpoint}", highlight=False)


def _print_parts(before: Parts, after: Parts) -> None:
    """Show metrics a line and the parts of the queries as columns, before → after where both are known."""
    from rich.table import Table

    from training.report.run_folder import metric_title

    if not after:
        output.print("nothing was held out, so nothing was measured (split.test)", highlight=False)
        return
    # One part alone is all there is, and says more than "all".
    parts = [name for name in after if name != "all" or len(after) != 2]
    table = Table()
    table.add_column("")
    for part in parts:
        table.add_column(_PART_TITLES[part], justify="right")
    for name in after["all"]:
        if name == "num_left_out" and not after["all"][name]:
            continue
        cells = [_change(before.get(part, {}).get(name), after[part].get(name)) for part in parts]
        table.add_row(metric_title(name), *cells)
    output.print(table)


def _change(before: float | None, after: float | None) -> str:
    if after is None:
        return ""
    if before is None or isinstance(after, int):
        return f"{after:,}" if isinstance(after, int) else f"{after:.3f}"
    return f"{before:.3f} → {after:.3f}"


def _outcome_json(outcome: "RunOutcome") -> dict[str, Any]:
    return {
        "out": str(outcome.out),
        "status": outcome.status,
        "steps": outcome.steps,
        "checkpoint": None if outcome.checkpoint is None else str(outcome.checkpoint),
        "report": None if outcome.report is None else str(outcome.report),
        "before": outcome.before,
        "after": outcome.after,
        "warnings": list(outcome.warnings),
    }


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201  # not through rich: no markup


@contextmanager
def stage_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each stage of the preparation; gives the function that moves it: (stage, done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)
    tasks: dict[str, Any] = {}

    def move(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            progress.start()
            tasks[stage] = progress.add_task(stage)
        progress.update(tasks[stage], completed=done, total=total)
        # Training has a display of its own, and a terminal holds one at a time.
        if done >= total:
            progress.stop()

    try:
        yield move
    finally:
        progress.stop()


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGTERM or SIGINT has come; a second one ends the process at once.

    What comes right after the first counts as the same: a service manager and whoever started this one both send it.
    """
    received: list[float] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(time.monotonic())
        if len(received) == 1:
            notes.print("saving the state and stopping", highlight=False)
        elif received[-1] - received[0] > _SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
