"""The step that trains, in a process of its own that ends with its worker and resumes from its last saved state."""

import fcntl
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import torch

from service.operations.folder import BASE, RUN, SNAPSHOT, TRAINING_LOG, TRAINING_PROGRESS
from service.releases.files import CHECKPOINT_NAME
from service.releases.records import require_active_release
from service.worker.errors import TrainingFailed
from service.worker.run import Ended, Facts, Run
from service.worker.steps.snapshot import config_of, request_of
from training.config import TrainingConfig
from training.report.run_folder import REPORT, RUN_CARD, read_run_table, table
from training.running.lock import LOCK
from training.running.run import CHECKPOINT

_POLL_SECONDS = 0.25
# How long a process may take to save its state when asked to stop: a large model on a slow disk.
_GRACE_SECONDS = 60
_CANCEL_SECONDS = 8.0  # the same after a cancel, when the state is not needed
# How often a killed training process is restarted: without progress in between, and in all.
_MAX_KILLS, _MAX_KILLS_IN_ALL = 3, 20
_MAX_LOG_BYTES = 4000

log = structlog.get_logger(__name__)


def train(run: Run) -> Facts:
    """Train until the checkpoint is complete, resuming from the saved state of an interrupted run."""
    run_dir = run.folder / RUN
    num_kills, num_in_all, furthest = 0, 0, (False, -1)
    while True:
        _wait_for_lock(run, run_dir)
        if _is_complete(run_dir):
            break
        ended = _train_once(run, run_dir)
        if ended.status == 0:
            continue  # complete, or stopped by a signal sent to the training process alone
        if not ended.is_killed:
            raise TrainingFailed(_reason(run.folder / TRAINING_LOG))
        num_in_all += 1
        num_kills = 1 if ended.progress > furthest else num_kills + 1
        furthest = max(furthest, ended.progress)
        log.warning("training_killed", operation_id=run.operation_id, status=ended.status, times=num_kills)
        if num_kills >= _MAX_KILLS or num_in_all >= _MAX_KILLS_IN_ALL:
            raise TrainingFailed(
                f"the training process was killed {num_in_all} times, {num_kills} of them without progress "
                f"(signal {ended.signal}), most likely for lack of memory; lower batches.classes_per_batch, or give "
                "the worker more memory"
            )
    return _facts(run_dir, run.facts["snapshot"]["hash"])


class _ProcessEnd:
    """How a training process ended."""

    def __init__(self, status: int, progress: tuple[bool, int]) -> None:
        self.status, self.progress = status, progress
        # The keeper exits with 128 + signal if its child was killed; a negative status is the keeper's own signal.
        self.signal = -status if status < 0 else max(0, status - 128)
        self.is_killed = self.signal > 0


def _train_once(run: Run, run_dir: Path) -> _ProcessEnd:
    progress_file = run.folder / TRAINING_PROGRESS
    progress_file.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "training.processes.keeper", "--grace", str(_GRACE_SECONDS), "--"),
        *_training_command(run, run_dir, progress_file),
    ]
    progress, cancelled = (False, -1), threading.Event()
    with (
        (run.folder / TRAINING_LOG).open("ab") as log_file,
        _kept_process(command, log_file.fileno(), cancelled.is_set) as process,
    ):
        while process.poll() is None:
            try:
                progress = _report(run, progress_file, progress)
            except Ended:
                cancelled.set()
                raise
            time.sleep(_POLL_SECONDS)
        return _ProcessEnd(process.returncode, progress)


@contextmanager
def _kept_process(
    command: list[str], output: int, is_cancelled: Callable[[], bool]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command under a keeper; however the block ends, the command is stopped and awaited."""
    # The keeper watches this pipe, which closes when this process dies, however it dies.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)  # noqa: S603  # our own
    try:
        yield process
    finally:
        assert process.stdin is not None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_CANCEL_SECONDS if is_cancelled() else None)
        if process.poll() is None:
            # It was cancelled, so the state that it is still saving is not needed.
            process.send_signal(signal.SIGTERM)
        process.stdin.close()
        process.wait()


def _training_command(run: Run, run_dir: Path, progress_file: Path) -> list[str]:
    settings, request = run.installation.settings, request_of(run)
    config = config_of(run)
    num_processes = settings.training_processes or _num_processes(
        _num_gpus(settings.device), min(config.batches.classes_per_batch, run.facts["num_training_classes"])
    )
    starter = [sys.executable, "-m", "training"]
    if num_processes > 1:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
        starter = [sys.executable, "-m", *launcher, "-m", "training"]
    overrides = [*request.overrides, "split.test=hash", *_base(run, config)]
    return [
        *(*starter, "train", "--data", str(run.folder / SNAPSHOT), "--out", str(run_dir)),
        *("--preset", run.facts["preset"]),
        *(part for override in overrides for part in ("--set", override)),
        *("--device", settings.device, "--runtime", settings.runtime, "--cache", str(settings.cache_dir)),
        *("--progress-file", str(progress_file), "--end-with-parent"),
        *(["--resume"] if run_dir.is_dir() else []),
    ]


def _base(run: Run, config: TrainingConfig) -> list[str]:
    """Return the override that starts from the active release's model, copied since the release may be retired."""
    if request_of(run).base != "current" or config.network.checkpoint:
        return []
    copy = run.folder / BASE
    if not copy.is_dir():
        with run.installation.database.reading() as session:
            release_id = require_active_release(session)
        aside = run.folder / ".base-aside"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(run.installation.settings.releases_dir / release_id / CHECKPOINT_NAME, aside)
        aside.rename(copy)
    return [f"network.checkpoint={json.dumps(str(copy))}"]


def _num_processes(num_gpus: int, num_classes: int) -> int:
    """Return the largest number of processes that divides the classes of a batch evenly, as training requires."""
    return max((number for number in range(1, num_gpus + 1) if num_classes % number == 0), default=1)


def _num_gpus(device: str) -> int:
    return torch.cuda.device_count() if device == "auto" else 1


def _report(run: Run, progress_file: Path, before: tuple[bool, int]) -> tuple[bool, int]:
    """Report the process's progress; return whether it trains already, and how far that stage is."""
    try:
        progress = json.loads(progress_file.read_bytes())
        stage, done, total = str(progress.pop("stage")), int(progress.pop("done")), int(progress.pop("total"))
    except (OSError, ValueError, KeyError, TypeError):
        run.check()
        return before
    details = {name: progress[name] for name in ("loss", "validation") if progress.get(name) is not None}
    run.report(stage, done, total, **details)
    return stage == "Training", done


def _wait_for_lock(run: Run, run_dir: Path) -> None:
    """Wait until no other process uses the folder: that of a killed worker may still be saving its state."""
    path = run_dir / LOCK
    while path.exists() and not _is_free(path):
        # No time limit: the other process ends within a minute of its worker, and cancelling ends this wait.
        run.report("Waiting for an earlier process to save its state", 0, 1)
        time.sleep(_POLL_SECONDS)


def _is_free(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _is_complete(run_dir: Path) -> bool:
    # The report is the last file that a run writes.
    if not (run_dir / REPORT).exists():
        return False
    return read_run_table(run_dir, RUN_CARD).get("status") == "completed"


def _facts(run_dir: Path, snapshot_hash: str) -> Facts:
    card = read_run_table(run_dir, RUN_CARD)
    if table(card, "snapshot").get("hash") != snapshot_hash:
        raise TrainingFailed(
            f"the run in {run_dir} was not trained on this operation's snapshot; have stored images changed?"
        )
    names = ("space_id", "steps", "seconds", "stopped_early", "best", "warnings")
    known = {name: card.get(name) for name in names}
    return {"training": {**known, "checkpoint": str(run_dir / CHECKPOINT)}}


def _reason(path: Path) -> str:
    """Return the last error message of a log."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MAX_LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    # torchrun puts the rank before each line of its processes.
    errors = re.findall(r"^(?:\[\w+\d*\]:)?\s*error:\s*(.+)$", text, flags=re.MULTILINE)
    if errors:
        return str(errors[-1])
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the training process failed: {lines[-1] if lines else 'no output'}; its log is {path}"
