"""The worker process: starts the engine, and hands it what is queued until asked to stop.

Each worker has an id of its own, which is its executor id in the engine as well. Operations of different kinds are
performed beside each other, those of one kind one at a time.
"""

import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import structlog

from service.errors import reason_of
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.labels.states import update_states
from service.operations.uploads import remove_leftovers, remove_upload
from service.worker.dispatching import Dispatcher
from service.worker.job_engine import job_engine, run_once
from service.worker.liveness import Heartbeat, living_workers, registered_worker
from service.worker.metrics import WorkerMetrics
from service.worker.operation_runner import TEMPORARY_ERRORS, OperationRunner
from service.worker.workflows import WORKFLOW_VERSION

# The longest orderly stop: training saves its state. Deployments wait longer than this before they kill.
STOP_SECONDS = 120.0

_POLL_SECONDS = 0.5
_MAX_COUNTED_IMAGES = 2_000
_SECONDS_BETWEEN_ROUNDS = 3.0  # of looking for dead workers

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WorkerOptions:
    """How a worker is run, and by whom it is observed."""

    until_idle: bool = False  # end when no operation is queued or running
    on_started: Callable[[str], None] = lambda _worker_id: None
    on_point: Callable[[str], None] = lambda _point: None  # see Run.on_point
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    workflow_version: str = WORKFLOW_VERSION


def run_worker(settings: Settings, options: WorkerOptions | None = None) -> None:
    """Perform operations until SIGTERM or SIGINT, or until idle if the options say so; then stop in order.

    Training saves its state first; the operation continues later, here or in another worker.
    """
    options = options or WorkerOptions()
    worker_id = secrets.token_hex(8)
    with (
        open_installation(settings) as installation,
        registered_worker(installation, worker_id) as heartbeat,
        _signals() as is_signalled,
        options.metrics.observing(installation),
    ):
        runner = OperationRunner(
            installation,
            worker_id,
            run_once,
            on_point=options.on_point,
            record_step=options.metrics.record_step,
            record_stages=options.metrics.record_stages,
        )
        version = options.workflow_version
        with job_engine(settings, runner.perform, worker_id=worker_id, version=version) as engine:
            dispatcher = Dispatcher(
                engine,
                installation.database,
                worker_id,
                version,
                living=partial(living_workers, installation, worker_id),
                at_work=runner.at_work,
                clean_up=partial(remove_upload, installation),
            )
            remove_leftovers(installation)
            options.on_started(worker_id)
            log.info("worker_started", worker_id=worker_id, host=socket.gethostname())
            # Lists of labels are up to date even if nobody asks for them; a step takes about a second.
            count_labels = partial(update_states, installation.database, max_images=_MAX_COUNTED_IMAGES)
            _work(dispatcher, runner, heartbeat, options, is_signalled, count_labels)
            runner.stopping.set()
            _wait_until_idle(runner, heartbeat, options.metrics)
        log.info("worker_stopped", worker_id=worker_id, reason="signal" if is_signalled() else "nothing left to do")


def _work(
    dispatcher: Dispatcher,
    runner: OperationRunner,
    heartbeat: Heartbeat,
    options: WorkerOptions,
    should_stop: Callable[[], bool],
    count_labels: Callable[[], int],
) -> None:
    next_round = 0.0
    while not should_stop():
        try:
            if time.monotonic() >= next_round:
                if heartbeat.is_silence_meaningful:
                    dispatcher.repair()
                    options.metrics.note_round()
                next_round = time.monotonic() + _SECONDS_BETWEEN_ROUNDS
            if not dispatcher.hand_over() and options.until_idle and not runner.at_work:
                return
            count_labels()
        except TEMPORARY_ERRORS as error:
            log.warning("worker_waits_for_database", reason=reason_of(error))
            time.sleep(1.0)
        except Exception:
            log.exception("worker_loop_failed")
            time.sleep(1.0)
        time.sleep(_POLL_SECONDS)


def _wait_until_idle(runner: OperationRunner, heartbeat: Heartbeat, metrics: WorkerMetrics) -> None:
    until = time.monotonic() + STOP_SECONDS
    while runner.at_work and time.monotonic() < until:
        if heartbeat.is_silence_meaningful:
            metrics.note_round()
        time.sleep(0.05)
    if runner.at_work:
        log.error("worker_gives_up_waiting", operations=sorted(runner.at_work))


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGTERM or SIGINT has arrived; a second one ends the process at once."""
    arrived = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield arrived.is_set
        return

    def note(number: int, _frame: FrameType | None) -> None:
        arrived.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield arrived.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
