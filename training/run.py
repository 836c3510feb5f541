"""One training run from a path of labelled pictures to a folder with checkpoint and report: what `akin train` calls."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from embedding.checkpoint import CheckpointFacts, save_checkpoint
from embedding.embedder import choose_device
from training.batches import BatchSampler
from training.config import TrainingConfig
from training.distributed import ProcessGroup, local_device, process_group
from training.errors import InvalidConfig, InvalidRun
from training.held_out import Measurement, cluster, deciding_metric, describe_protocol, measure, per_class
from training.loop import LoopHooks, LoopParts, LoopResult, TrainingLoop
from training.losses.factory import create_loss
from training.metrics_log import MetricsLog
from training.mining import RepresentativeTable
from training.neighbours import choose_rows, write_neighbours
from training.preparation import (
    OnProgress,
    PreparedInputs,
    TrainingData,
    gather_materials,
    prepare_inputs,
    read_training_data,
)
from training.progress import SilentProgress, TrainingProgress
from training.report import write_report
from training.resume import latest_state, load_state, save_state
from training.run_card import Card, check_same_run, new_card, write_json
from training.run_folder import EVALUATION, METRICS, RUN_CARD
from training.starting_model import StartingModel, create_starting_model

CHECKPOINT, STATE = "checkpoint", "state"

_NUM_NEIGHBOURS = 6


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is trained on, with which knobs, and where everything is written."""

    data: Path
    out: Path
    config: TrainingConfig
    cache_dir: Path
    device: str = "auto"
    resume: bool = False
    command: str = ""  # for the report: how the run was started


@dataclass(frozen=True, slots=True)
class RunHooks:
    """Who watches a run, and may stop it."""

    progress: TrainingProgress = field(default_factory=SilentProgress)
    on_progress: OnProgress = lambda _stage, _done, _total: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended. Without `checkpoint` it was interrupted, and goes on with `resume`."""

    out: Path
    status: str
    steps: int
    checkpoint: Path | None
    report: Path | None
    before: dict[str, dict[str, float]]
    after: dict[str, dict[str, float]]
    warnings: tuple[str, ...]


def train(options: RunOptions, hooks: RunHooks | None = None) -> RunOutcome:
    """Train, evaluate before and after, and write checkpoint and report into `options.out`.

    With `resume`, go on from the last saved state; the configuration and the pictures must be the same. Asked to stop,
    it saves a state and returns. Started by torchrun, all processes call this and the first one writes. Raises
    TrainingError, EmbeddingError and OSError; what was saved before stays.
    """
    hooks = hooks or RunHooks()
    device = local_device(choose_device(options.device, "float32"))
    with process_group(device) as group, _only_run_in(options.out, group):
        return _train(options, hooks, device, group)


def _train(options: RunOptions, hooks: RunHooks, device: torch.device, group: ProcessGroup) -> RunOutcome:
    config = options.config
    if config.batches.classes_per_batch % group.size:
        raise InvalidConfig(
            f"batches.classes_per_batch = {config.batches.classes_per_batch} cannot be shared evenly by {group.size} "
            "processes; choose a multiple"
        )
    _check_folder(options)
    start = create_starting_model(config.network, config.seed)
    with group.first_goes_first():
        data = read_training_data(
            options.data, config, start.preprocessing, cache_dir=options.cache_dir, on_progress=hooks.on_progress
        )
        card = new_card(options.data, data, config, device, options.command)
        if options.resume:
            card = {**check_same_run(options.out, card), "status": "running"}
        materials = gather_materials(
            data, start, config, device=device, cache_dir=options.cache_dir, on_progress=hooks.on_progress
        )
    prepared = prepare_inputs(data, start, materials, config, device)
    before = _measure_test(data, config, prepared.embed_before, device)
    if group.is_first:
        write_json(options.out / RUN_CARD, card)
    started = time.monotonic()
    result = _run_loop(options, hooks, data, start, prepared, device, group, card)
    card |= {"steps": result.steps, "seconds": round(time.monotonic() - started, 1)}
    card["status"] = "interrupted" if result.status == "interrupted" else "completed"
    card["stopped_early"] = result.status == "stopped_early"
    card["final_relaxation"] = result.final_relaxation
    card["warnings"] = [*data.notes, *result.warnings]
    if result.best_metric is not None:
        card["best"] = {"step": result.best_step, "value": result.best_metric}
    metrics_before = before.metrics if before else {}
    if result.status == "interrupted" or not group.is_first:
        if group.is_first:
            write_json(options.out / RUN_CARD, card)
        return RunOutcome(options.out, card["status"], result.steps, None, None, metrics_before, {}, result.warnings)
    after = _measure_test(data, config, prepared.inputs.embed, device)
    report = _write_results(options, data, start, prepared, before, after, card, result)
    return RunOutcome(
        out=options.out,
        status=result.status,
        steps=result.steps,
        checkpoint=options.out / CHECKPOINT,
        report=report,
        before=metrics_before,
        after=after.metrics if after else {},
        warnings=tuple(card["warnings"]),
    )


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

        loop = TrainingLoop(parts, LoopHooks(record, save, hooks.should_stop))
        if state is not None:
            loop.restore(state)
        if group.is_first:
            hooks.progress.started(config.steps, first_step)
        try:
            return loop.run()
        except BaseException as error:
            if group.is_first:
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
    """Make everything that the loop works on."""
    embedding_dim = start.model.embedding_dim
    generator = torch.Generator().manual_seed(config.seed)
    loss = create_loss(config.loss, data.num_classes, embedding_dim, generator).to(device)
    table = RepresentativeTable(data.num_classes, embedding_dim, device)
    batches = BatchSampler(config.batches, data.labels, data.is_catalogue, table, seed=config.seed)
    validation = data.split.validation

    def validate() -> dict[str, Any]:
        assert validation is not None
        ks = config.evaluation.ks
        measured = measure(prepared.inputs.embed, data.snapshot, validation, ks=ks, device=str(device))
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


def _measure_test(data: TrainingData, config: TrainingConfig, embed: Any, device: torch.device) -> Measurement | None:
    if data.split.test is None:
        return None
    return measure(
        embed,
        data.snapshot,
        data.split.test,
        ks=config.evaluation.ks,
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
    """Write evaluation, neighbours, checkpoint and report; the run card last, since it says that all is there."""
    test = data.split.test
    if test is not None and before is not None and after is not None:
        evaluation: dict[str, Any] = {
            "protocol": describe_protocol(test),
            "ks": list(options.config.evaluation.ks),
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
    facts = _save_checkpoint(options, data, start, after, result)
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
        raise InvalidRun(f"{options.out} holds a run already; go on with it by --resume, or train into another folder")
    if options.resume and not (options.out / RUN_CARD).exists():
        raise InvalidRun(f"{options.out} holds no run to go on with; leave out --resume to begin one")
    if not options.resume and options.out.exists() and any(p.name != ".lock" for p in options.out.iterdir()):
        raise InvalidRun(f"{options.out} is not empty; train into a new folder")


@contextmanager
def _only_run_in(out: Path, group: ProcessGroup) -> Iterator[None]:
    """Hold the lock of a run's folder, so that two processes never write one run."""
    if not group.is_first:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRun(f"another process trains into {out}; wait for it, or name another folder") from None
        yield
