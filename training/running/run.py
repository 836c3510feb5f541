"""One training run, from labelled images to a folder with checkpoint and report: what `akin train` calls."""

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from embedding.checkpoint import CheckpointFacts, save_checkpoint
from embedding.runtimes.choice import choose_runtime
from embedding.runtimes.network import choose_device
from embedding.runtimes.options import NetworkOptions, RuntimeName
from training.batches import BatchSampler
from training.config import TrainingConfig
from training.datasets.folders import Layout
from training.errors import DeviceLost, InvalidRun
from training.evaluation.held_out import (
    Embed,
    Measurement,
    cluster,
    deciding_metric,
    describe_protocol,
    measure,
    per_class,
)
from training.loop import TrainingLoop
from training.loop_parts import LoopHooks, LoopParts, LoopResult
from training.losses.factory import create_loss
from training.mining import RepresentativeTable
from training.report.metrics_log import MetricsLog
from training.report.neighbours import choose_rows, write_neighbours
from training.report.page import write_report
from training.report.progress import SilentProgress, TrainingProgress
from training.report.run_folder import EVALUATION, METRICS, RUN_CARD
from training.running.card import Card, continued_card, finished_card, new_card, write_json
from training.running.checks import check_processes, check_run, share_batch_norm
from training.running.distributed import ProcessGroup, local_device, process_group
from training.running.lock import LOCK, only_run_in
from training.running.preparation import (
    OnProgress,
    PreparedInputs,
    TrainingData,
    describe_split,
    gather_materials,
    prepare_inputs,
    read_training_data,
)
from training.running.resume import latest_state, load_state, save_state
from training.running.starting_model import StartingModel, create_starting_model

CHECKPOINT, STATE = "checkpoint", "state"

_NUM_NEIGHBOURS = 6
# Words in errors of an accelerator that have no exception class of their own.
_DEVICE_WORDS = re.compile(r"\b(CUDA|cuDNN|CUBLAS|NCCL|DefaultCPUAllocator)\b")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run trains on, its configuration, and where it writes."""

    data: Path
    out: Path
    config: TrainingConfig
    cache_dir: Path
    device: str = "auto"
    resume: bool = False
    command: str = ""  # the command line, for the report
    layout: Layout = "auto"  # how folders are read
    runtime: RuntimeName = "torch"  # what computes the features of a frozen backbone


def _ignore(_stage: str, _done: int, _total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Callbacks that observe a run and may stop it."""

    progress: TrainingProgress = field(default_factory=SilentProgress)
    on_progress: OnProgress = _ignore
    should_stop: Callable[[], bool] = lambda: False
    # Receives notes before training: what is held out, and what is wrong with the data.
    announce: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended. Without a checkpoint it was interrupted and can be resumed."""

    out: Path
    status: str
    steps: int
    checkpoint: Path | None
    report: Path | None
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    warnings: tuple[str, ...]
    is_first: bool = True  # whether this is the process that wrote the files


def train(options: RunOptions, hooks: RunHooks | None = None) -> RunOutcome:
    """Train, evaluate before and after, and write checkpoint and report into `options.out`.

    With `resume`, continue from the last saved state; the configuration and the images must be the same. When
    `hooks.should_stop` returns true, the run saves a state and returns. Under torchrun all processes call this
    function and the first one writes. Raises TrainingError, EmbeddingError and OSError; saved states remain valid.
    """
    hooks = hooks or RunHooks()
    # Checked here, since the lock creates the folder.
    if options.resume and not options.out.is_dir():
        raise InvalidRun(f"{options.out} contains no run to resume; omit --resume to start one")
    choose_runtime(NetworkOptions(options.device, runtime=options.runtime))
    device = local_device(choose_device(options.device, "float32"))
    if device.type == "cuda":
        # Code that uses the current device must not use another process's GPU.
        torch.cuda.set_device(device)
    try:
        with process_group(device) as group, only_run_in(options.out, group):
            return _train(options, hooks, device, group)
    except _Stopped:
        # Stopped during preparation: the cache already contains all that is worth keeping.
        return RunOutcome(options.out, "interrupted", 0, None, None, {}, {}, ())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(f"{error}; free some disk space for {options.out}, then continue with --resume") from error
        raise
    except RuntimeError as error:
        if "Connection closed by peer" in str(error):
            raise InvalidRun("another process of this run failed; see its error message") from error
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError) or _DEVICE_WORDS.search(str(error)):
            raise DeviceLost(
                f"the device {device} failed: {str(error).splitlines()[0]}; the last saved state is kept: resume with "
                "--resume, or start again with a smaller batches.classes_per_batch if memory ran out"
            ) from error
        raise


class _Stopped(Exception):
    """A stop was requested before training began."""


def _train(options: RunOptions, hooks: RunHooks, device: torch.device, group: ProcessGroup) -> RunOutcome:
    config = options.config
    _check_folder(options)
    start = create_starting_model(config.network, config.seed)
    check_processes(config, start.model, group, device)
    on_progress = _stoppable(hooks, group)
    with group.first_goes_first():
        data = read_training_data(
            options.data,
            config,
            start.preprocessing,
            cache_dir=options.cache_dir,
            on_progress=on_progress,
            layout=options.layout,
        )
        check_run(config, data, start.model, group)
        card = new_card(options.data, data, config, device, options.command)
        # A run that was stopped during preparation has no card yet and starts from the beginning.
        if (options.out / RUN_CARD).exists():
            card = continued_card(options.out, card)
        materials = gather_materials(
            data,
            start,
            config,
            device=device,
            cache_dir=options.cache_dir,
            on_progress=on_progress,
            runtime=options.runtime,
        )
    start = share_batch_norm(start, config, group)
    # Not stoppable: this also reports while training and after it, when a request to stop is handled otherwise.
    prepared = prepare_inputs(data, start, materials, config, device, hooks.on_progress if group.is_first else _ignore)
    before = _measure_test(data, config, prepared.embed_before, device)
    if group.is_first:
        write_json(options.out / RUN_CARD, card)
        for line in (describe_split(data), *data.notes):
            hooks.announce(line)
    torch.manual_seed(config.seed + group.rank)
    result = _run_loop(options, hooks, data, start, prepared, device, group, card)
    card = finished_card(card, data, config, result)
    outcome = RunOutcome(
        out=options.out,
        status=result.status,
        steps=result.steps,
        checkpoint=None,
        report=None,
        before=before.metrics if before else {},
        after={},
        warnings=tuple(card["warnings"]),
        is_first=group.is_first,
    )
    if not group.is_first:
        return outcome
    if result.status == "interrupted":
        write_json(options.out / RUN_CARD, card)
        return outcome
    after = _measure_test(data, config, prepared.inputs.embed, device)
    report = _write_results(options, data, start, prepared, before, after, card, result)
    metrics = after.metrics if after else {}
    return replace(outcome, checkpoint=options.out / CHECKPOINT, report=report, after=metrics)


def _stoppable(hooks: RunHooks, group: ProcessGroup) -> OnProgress:
    """Let a request to stop also end the preparation; decoded images and features are kept."""

    def on_progress(stage: str, done: int, total: int) -> None:
        if group.is_first:
            hooks.on_progress(stage, done, total)
        if hooks.should_stop():
            raise _Stopped

    return on_progress


def _run_loop(
    options: RunOptions,
    hooks: RunHooks,
    data: TrainingData,
    start: StartingModel,
    prepared: PreparedInputs,
    device: torch.device,
    group: ProcessGroup,
    card: Card,
) -> LoopResult:
    config = options.config
    state_dir = options.out / STATE
    newest = latest_state(state_dir) if options.resume else None
    state = load_state(newest) if newest else None
    parts = loop_parts(data, start, prepared, config, device, group)
    with _log(options, state, group) as log:
        first_step = state["loop_step"] if state else 0

        def record(entry: dict[str, Any]) -> None:
            if log is not None:
                log.write(entry)
                _show(hooks.progress, entry)

        def save(step: int, state: dict[str, Any]) -> None:
            if group.is_first:
                save_state(state_dir, step, state)

        advanced = hooks.progress.advanced if group.is_first else LoopHooks().advanced
        loop = TrainingLoop(parts, LoopHooks(record, save, hooks.should_stop, advanced))
        if state is not None:
            loop.restore(state)
        if group.is_first:
            hooks.progress.started(config.steps, first_step)
        try:
            return loop.run()
        except BaseException as error:
            if group.is_first:
                # A full disk may be the cause; failing to write here must not hide the error.
                with suppress(OSError):
                    write_json(options.out / RUN_CARD, {**card, "status": "failed", "error": str(error)})
            raise
        finally:
            hooks.progress.finished()


def loop_parts(
    data: TrainingData,
    start: StartingModel,
    prepared: PreparedInputs,
    config: TrainingConfig,
    device: torch.device,
    group: ProcessGroup,
) -> LoopParts:
    """Create the inputs of the loop."""
    embedding_dim = start.model.embedding_dim
    generator = torch.Generator().manual_seed(config.seed)
    loss = create_loss(config.loss, data.num_classes, embedding_dim, generator).to(device)
    table = RepresentativeTable(data.num_classes, embedding_dim, device)
    batches = BatchSampler(config.batches, data.labels, data.is_catalogue, table, seed=config.seed)
    validation = data.split.validation

    def validate() -> dict[str, Any]:
        assert validation is not None
        measured = measure(
            prepared.inputs.embed, data.snapshot, validation, ks=config.evaluation.all_ks, device=str(device)
        )
        metrics = measured.flat()
        return {**metrics, "metric": deciding_metric(config.evaluation.metric, metrics)}

    return LoopParts(
        config=config,
        model=start.model,
        loss=loss,
        inputs=prepared.inputs,
        positions=data.train,
        batches=batches,
        table=table,
        device=device,
        validate=None if validation is None else validate,
        group=group,
    )


def _measure_test(data: TrainingData, config: TrainingConfig, embed: Embed, device: torch.device) -> Measurement | None:
    if data.split.test is None:
        return None
    return measure(
        embed,
        data.snapshot,
        data.split.test,
        ks=config.evaluation.all_ks,
        num_neighbours=_NUM_NEIGHBOURS,
        device=str(device),
    )


def _write_results(
    options: RunOptions,
    data: TrainingData,
    start: StartingModel,
    prepared: PreparedInputs,
    before: Measurement | None,
    after: Measurement | None,
    card: Card,
    result: LoopResult,
) -> Path:
    """Write checkpoint, evaluation and neighbours, then the completed run card, then the report."""
    facts = _save_checkpoint(options, data, start, after, result)
    test = data.split.test
    if test is not None and before is not None and after is not None:
        evaluation: dict[str, Any] = {
            "protocol": describe_protocol(test),
            "ks": list(options.config.evaluation.all_ks),
            "before": before.metrics,
            "after": after.metrics,
            "per_class": per_class(data.snapshot, test, before, after),
            "clustering": None,
        }
        if options.config.evaluation.clustering:
            evaluation["clustering"] = cluster(prepared.inputs.embed, data.snapshot, test, seed=options.config.seed)
        write_json(options.out / EVALUATION, evaluation)
        images = data.snapshot.images
        queries = [images[position] for position in test.query]
        gallery = queries if test.gallery is None else [images[position] for position in test.gallery]
        rows = choose_rows(queries, gallery, after.result.neighbour_ids, after.result.neighbour_scores)
        write_neighbours(options.out, rows)
    card["space_id"] = facts.space_id
    write_json(options.out / RUN_CARD, card)
    return write_report(options.out)


def _save_checkpoint(
    options: RunOptions, data: TrainingData, start: StartingModel, after: Measurement | None, result: LoopResult
) -> CheckpointFacts:
    provenance = {
        "weights": start.source,
        "training": "alternating projections" if options.config.batches.representatives != "none" else "plain",
        "snapshot_hash": data.snapshot.snapshot_hash,
        "seed": options.config.seed,
        "steps": result.steps,
        "config": options.config.to_json(),
    }
    metrics = after.metrics if after else {}
    # Left by a run that was killed before its card was completed.
    if (options.out / CHECKPOINT).exists():
        shutil.rmtree(options.out / CHECKPOINT)
    return save_checkpoint(
        options.out / CHECKPOINT, start.model, start.preprocessing, metrics=metrics, provenance=provenance
    )


def _show(progress: TrainingProgress, entry: dict[str, Any]) -> None:
    if entry["kind"] == "step":
        progress.step(entry)
    elif entry["kind"] == "evaluation":
        progress.evaluated(entry)
    elif entry["kind"] == "warning":
        progress.warned(entry["message"])


@contextmanager
def _log(options: RunOptions, state: dict[str, Any] | None, group: ProcessGroup) -> Iterator[MetricsLog | None]:
    if not group.is_first:
        yield None
        return
    with MetricsLog(options.out, resume_after_step=state["loop_step"] if state else None) as log:
        yield log


def _check_folder(options: RunOptions) -> None:
    has_run = (options.out / RUN_CARD).exists() or (options.out / METRICS).exists()
    if has_run and not options.resume:
        raise InvalidRun(
            f"{options.out} already contains a run; continue it with --resume, or train into another folder"
        )
    if not options.resume and options.out.exists() and any(p.name != LOCK for p in options.out.iterdir()):
        raise InvalidRun(f"{options.out} is not empty; train into a new folder")
