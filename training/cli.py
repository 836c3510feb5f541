"""The commands `train`, `evaluate`, `snapshot` and `presets`.

They are part of `akin`, and run as `python -m training` where only the machine-learning packages are installed.
Imports are inside the functions so that each command loads only what it needs.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from embedding.runtimes.options import RuntimeName
    from training.config import TrainingConfig
    from training.datasets.folders import Layout
    from training.report.progress import ProgressDisplay, TrainingProgress
    from training.running.run import RunOutcome

output = Console(soft_wrap=True)
notes = Console(stderr=True, soft_wrap=True)

# Signals this close together are one request to stop.
_SAME_REQUEST_SECONDS = 1.0

DEFAULT_CACHE = Path("akin-data/cache")
DEFAULT_RUNS = Path("akin-data/runs")

_PART_TITLES = {"all": "all queries", "seen": "classes trained on", "unseen": "classes never trained on"}

Parts = dict[str, dict[str, float]]

DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Labelled images: a folder per class, CSV or NDJSON file, published data set or snapshot.",
    ),
]
LayoutOption = Annotated[
    str, typer.Option(help="How folders are read: auto, products (each outermost one is a class) or paths.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting, such as --set projections.passes=4; repeatable."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
RuntimeOption = Annotated[
    str,
    typer.Option(help="What runs networks that are not trained: auto (onnxruntime on a CPU), onnxruntime or torch."),
]
CacheOption = Annotated[
    Path, typer.Option(help="Folder for decoded images, features and exported networks, reused by later runs.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Register the training commands on a Typer application."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("snapshot")(snapshot)
    app.command("presets")(presets)


def train(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="New folder for the checkpoint, metrics and report.")],
    preset: Annotated[str, typer.Option(help="Name of a configuration (list them with akin presets).")] = "",
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, instead of a preset.")] = None,
    set_: SetOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Short for --set steps=N.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Short for --set seed=N.")] = None,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    cache: CacheOption = DEFAULT_CACHE,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    layout: LayoutOption = "auto",
    json: JsonOption = False,
    progress_file: Annotated[Path | None, typer.Option("--progress-file", hidden=True)] = None,
    end_with_parent: Annotated[bool, typer.Option("--end-with-parent", hidden=True)] = False,
) -> None:
    """Learn an embedding from labelled images; writes a checkpoint and a report.

    The default preset is `small` on a GPU and `head` on a CPU. On SIGTERM or Ctrl+C the run saves its state and ends;
    --resume continues it.
    """
    from training.processes.launcher import watch_launcher
    from training.running.run import RunHooks, RunOptions
    from training.running.run import train as run_training

    overrides = [*(set_ or [])]
    overrides += [] if steps is None else [f"steps={steps}"]
    overrides += [] if seed is None else [f"seed={seed}"]
    chosen = _choose_config(preset, config, overrides, device)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    options = RunOptions(
        data, out, chosen, cache, device, resume, command, _layout(layout), cast("RuntimeName", runtime)
    )
    with _stop_request() as should_stop, _display() as display:
        # Only after the handlers are installed: from here on SIGTERM saves the state.
        if end_with_parent:
            _end_with_parent()
        watch_launcher()
        progress: TrainingProgress = display
        on_progress: Callable[[str, int, int], None] = display.stage
        if progress_file is not None:
            progress, on_progress = _with_file(progress_file, display)
        outcome = run_training(options, RunHooks(progress, on_progress, should_stop, _announce))
    if not outcome.is_first:
        return
    if json:
        _print_json(_outcome_json(outcome))
    else:
        _print_outcome(outcome)


def evaluate(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Folder of a checkpoint.")],
    data: DataOption,
    part: Annotated[str, typer.Option(help="test, validation, or all (every image, nothing held out).")] = "test",
    set_: SetOption = None,
    ks: Annotated[str, typer.Option(help="Values of k for recall@k, separated by commas.")] = "1,2,4,8",
    clustering: Annotated[bool, typer.Option("--clustering", help="Also run k-means: NMI, AMI, pairwise F1.")] = False,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show recall@1 of each class.")] = False,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    cache: CacheOption = DEFAULT_CACHE,
    layout: LayoutOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a checkpoint on labelled images: recall@k, R-precision, MAP@R, clustering.

    If the images have roles, examples are searched among the catalogue images, otherwise each image among all others.
    The split equals that of `akin train` with the same --set split.… settings.
    """
    from embedding.runtimes.options import NetworkOptions
    from training.evaluation.checkpoints import evaluate_checkpoint

    with _display() as display:
        measured = evaluate_checkpoint(
            checkpoint,
            data,
            part=part,
            overrides=set_ or [],
            ks=_numbers(ks),
            clustering=clustering,
            network=NetworkOptions(device, runtime=cast("RuntimeName", runtime), cache_dir=cache / "networks"),
            layout=_layout(layout),
            on_progress=display.stage,
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
    out: Annotated[Path, typer.Option("--out", help="Folder to create.")],
    layout: LayoutOption = "auto",
) -> None:
    """Copy labelled images into a snapshot with a hash, so that a run can be repeated on exactly these images."""
    from training.data.snapshot import open_training_data, write_snapshot

    with _display() as display:
        taken = open_training_data(
            data, lambda done, total: display.stage("Reading", done, total), layout=_layout(layout)
        )
        write_snapshot(taken, out, lambda done, total: display.stage("Copying", done, total))
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
    name: Annotated[str, typer.Argument(help="Preset to print as TOML, as the start of a file of your own.")] = "",
) -> None:
    """List the presets of `akin train`, or print one."""
    from training.config import PRESETS_DIR, load_preset, preset_names

    if name:
        load_preset(name)
        print((PRESETS_DIR / f"{name}.toml").read_text(encoding="utf-8"), end="")  # noqa: T201  # verbatim, for a file
        return
    for known in preset_names():
        first_line = (PRESETS_DIR / f"{known}.toml").read_text(encoding="utf-8").partition("\n")[0]
        output.print(f"{known:12s} {escape(first_line.removeprefix('# '))}", highlight=False)


def _choose_config(preset: str, path: Path | None, overrides: list[str], device: str) -> "TrainingConfig":
    from embedding.runtimes.network import choose_device
    from training.config import load_config, load_preset
    from training.errors import InvalidConfig

    if preset and path:
        raise InvalidConfig("give --preset or --config, not both; --set changes single settings of either")
    if path:
        return load_config(path, overrides)
    if not preset:
        preset = "small" if choose_device(device, "float32").type == "cuda" else "head"
        notes.print(f"using preset {preset}; choose another with --preset", highlight=False)
    return load_preset(preset, overrides)


def _layout(text: str) -> "Layout":
    from training.datasets.folders import layout_named

    try:
        return layout_named(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--layout") from error


def _end_with_parent() -> None:
    """Request SIGTERM for when the parent process ends; exit at once if it already has."""
    from training.processes.parent_process import ParentGone, end_with_parent

    try:
        end_with_parent()
    except ParentGone as error:
        notes.print(f"{error}", highlight=False)
        raise typer.Exit(128 + signal.SIGTERM) from None


def _with_file(path: Path, display: "ProgressDisplay") -> tuple["TrainingProgress", Callable[[str, int, int], None]]:
    """Write to a file what the display shows."""
    from training.report.progress_file import ProgressFile
    from training.running.distributed import is_first_process

    file = ProgressFile(path, display, is_writer=is_first_process)

    def on_progress(stage: str, done: int, total: int) -> None:
        display.stage(stage, done, total)
        file.on_progress(stage, done, total)

    return file, on_progress


def _numbers(text: str) -> tuple[int, ...]:
    from training.errors import InvalidConfig

    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InvalidConfig(f"--ks takes numbers above 0, separated by commas; got {text!r}")
    return numbers


def _announce(line: str) -> None:
    notes.print(f"[yellow]note:[/] {escape(line)}", highlight=False)


def _print_outcome(outcome: "RunOutcome") -> None:
    if outcome.checkpoint is None:
        remedy = "continue with --resume" if outcome.steps else "start again with --resume; computed features are kept"
        output.print(f"stopped after step {outcome.steps}; {remedy}", highlight=False)
        return
    _print_parts(outcome.before, outcome.after)
    output.print(f"checkpoint: {outcome.checkpoint}", highlight=False)
    output.print(f"report:     {outcome.report}", highlight=False)
    output.print(f"next: akin index build --checkpoint {outcome.checkpoint}", highlight=False)


def _print_parts(before: Parts, after: Parts) -> None:
    """Print one row per metric and one column per part of the queries, as before → after where both are known."""
    from rich.table import Table

    from training.report.run_folder import metric_title

    if not after:
        output.print("no test images were held out (split.test), so nothing was measured", highlight=False)
        return
    # With a single part, "all" would repeat its column.
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

    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201  # rich would read markup


@contextmanager
def _display() -> Iterator["ProgressDisplay"]:
    """Show progress on standard error, and restore the terminal at the end."""
    from training.report.progress import choose_progress

    display = choose_progress(notes)
    try:
        yield display
    finally:
        display.finished()


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGTERM or SIGINT was received; a second one ends the process at once.

    Signals within a second of the first are the same request: a service manager and a shell may both send one.
    """
    received: list[float] = []

    def note_signal(number: int, _frame: FrameType | None) -> None:
        received.append(time.monotonic())
        if len(received) == 1:
            notes.print("saving the state, then stopping", highlight=False)
        elif received[-1] - received[0] > _SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)

    before = {number: signal.signal(number, note_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
