"""The worker: a process that does what operations ask for, on DBOS, one at a time.

DBOS remembers which steps of a workflow are done; the rows of `operations` say what there is to do and for whom. The
two are joined by the operation's id, which is the workflow's too: handing one over twice is handing it over once.

A worker that is gone keeps nothing: each has an id of its own, a lock on a file of that name for as long as it lives,
and a heartbeat. Whoever finds the lock free (the same machine), or the heartbeat older than `worker_takeover_seconds`
(any other), puts what that worker had back into the queue. DBOS does so once, however many try; and the worker named
in the operation's row is then another, so one that was only slow can write nothing any more.
"""

import fcntl
import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from service.errors import DatabaseError, ServiceError
from service.installation import Installation, open_installation
from service.operations.records import (
    ACTIVE_STATES,
    OperationLost,
    claim_operation,
    end_operation,
    list_operations,
    release_claim,
)
from service.operations.run import Ended, Facts, Run, WorkerStopping
from service.operations.workflows import WORKFLOW_VERSION, WORKFLOWS
from service.processes import WORKER, beat, gone_processes, prune_processes, register_process, stop_process
from service.settings import Settings
from service.tables import FAILED, SUCCEEDED, Operation

QUEUE = "operations"
_WORKFLOW = "operation"
_POLL_SECONDS = 0.5
_SECONDS_BETWEEN_BEATS = 5.0
# How long an orderly end may take: training saves its state.
_STOP_SECONDS = 120.0
# Begun so often without finishing a step, an operation is what kills its workers.
_MOST_ATTEMPTS = 10

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WorkerHooks:
    """Who watches a worker, and may stop it."""

    should_stop: Callable[[], bool] = lambda: False
    observe: Callable[[str], None] = lambda _point: None
    until_idle: bool = False  # end when nothing is queued or under way
    started: Callable[[str], None] = lambda _worker_id: None


@dataclass(slots=True)
class _State:
    """What the worker's threads share."""

    installation: Installation
    worker_id: str
    hooks: WorkerHooks
    stopping: threading.Event = field(default_factory=threading.Event)
    at_work: set[str] = field(default_factory=set)  # ids of operations
    handed_over: set[str] = field(default_factory=set)
    taken_from: set[str] = field(default_factory=set)  # workers whose work was put back


# DBOS calls the workflow by its name, and hands over nothing but its arguments: one worker a process.
_state: _State | None = None


def run_worker(settings: Settings, hooks: WorkerHooks | None = None) -> None:
    """Do the work of operations until asked to stop (SIGTERM, SIGINT, or the hooks), then end in good order.

    Training saves its state first, and the operation goes on later, here or in another worker.
    """
    hooks = hooks or WorkerHooks()
    worker_id = secrets.token_hex(8)
    with open_installation(settings) as installation, _alive(installation, worker_id), _signals() as is_asked:
        state = _State(installation, worker_id, hooks)
        with _engine(settings, state):
            hooks.started(worker_id)
            log.info("worker_started", worker_id=worker_id, host=socket.gethostname())
            _loop(state, lambda: is_asked() or hooks.should_stop())
            state.stopping.set()
            _wait_until_idle(state)
        log.info("worker_stopped", worker_id=worker_id)


def _loop(state: _State, should_stop: Callable[[], bool]) -> None:
    next_beat = 0.0
    while not should_stop():
        try:
            if time.monotonic() >= next_beat:
                beat(state.installation.database, state.worker_id, kind=WORKER)
                next_beat = time.monotonic() + _SECONDS_BETWEEN_BEATS
                _prune(state)
            _take_over(state)
            if not _hand_over(state) and state.hooks.until_idle and not state.at_work:
                return
        except DatabaseError as error:
            log.warning("worker_waits_for_database", reason=str(error))
            time.sleep(1.0)
        except Exception:
            log.exception("worker_loop_failed")
            time.sleep(1.0)
        time.sleep(_POLL_SECONDS)


def _hand_over(state: _State) -> bool:
    """Give DBOS what is queued and not yet known to it; say whether any operation is queued or under way."""
    with state.installation.database.reading() as session:
        active = list_operations(session, states=ACTIVE_STATES, limit=1000)
    for operation in active:
        if operation.id in state.handed_over or operation.kind not in WORKFLOWS:
            continue
        # Where DBOS lost its own records, what is called running is begun again: its steps find what they have made.
        with SetWorkflowID(operation.id):
            handle = DBOS.enqueue_workflow(QUEUE, _workflow, operation.id)
        state.handed_over.add(operation.id)
        _check_workflow(state, operation, handle.get_status().status)
    return bool(active)


def _check_workflow(state: _State, operation: Operation, status: str) -> None:
    """End an operation whose workflow has ended without it: else it would be called running for ever."""
    if status in ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED", "SUCCESS"):
        claimed = claim_operation(state.installation.database, operation.id, state.worker_id)
        if claimed is not None:
            log.error("operation_without_workflow", operation_id=operation.id, workflow_status=status)
            detail = f"its workflow has ended as {status} without it; ask for it again"
            _end(state, operation.id, FAILED, {"code": "internal-error", "detail": detail})


def _take_over(state: _State) -> None:
    """Put back what workers had that are gone."""
    installation = state.installation
    gone = _free_locks(installation.settings.workers_dir, state.worker_id)
    for worker_id in gone:
        stop_process(installation.database, worker_id)
    with installation.database.reading() as session:
        gone |= set(gone_processes(session, WORKER, installation.settings.worker_takeover_seconds))
    for worker_id in sorted(gone - state.taken_from - {state.worker_id}):
        # Only workflows that still name that worker are put back, by whoever comes first.
        for handle in DBOS._recover_pending_workflows([worker_id]):
            log.warning("operation_taken_over", operation_id=handle.get_workflow_id(), worker_id=worker_id)
        state.taken_from.add(worker_id)


def _free_locks(workers_dir: Path, own_id: str) -> set[str]:
    """Return the ids of workers of this machine whose lock is free, and remove those files."""
    free = set()
    for path in workers_dir.glob(f"{socket.gethostname()}.*.lock"):
        worker_id = path.name.split(".")[-2]
        if worker_id == own_id:
            continue
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            free.add(worker_id)
        except (BlockingIOError, FileNotFoundError):
            continue
    return free


def _prune(state: _State) -> None:
    with state.installation.database.transaction() as session:
        prune_processes(session)


@DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
def _workflow(operation_id: str) -> str:
    """Do one operation; what DBOS remembers as its result is the state that it ended in."""
    state = _state
    assert state is not None
    if state.stopping.is_set():
        raise WorkerStopping
    operation = claim_operation(state.installation.database, operation_id, state.worker_id)
    if operation is None:
        return "ended before"
    state.at_work.add(operation_id)
    try:
        return _work(state, operation)
    except WorkerStopping:
        release_claim(state.installation.database, operation_id, state.worker_id)
        log.info("operation_goes_on_later", operation_id=operation_id)
        raise
    except OperationLost:
        log.warning("operation_lost", operation_id=operation_id, reason="another worker has taken it over")
        raise
    finally:
        state.at_work.discard(operation_id)


def _work(state: _State, operation: Operation) -> str:
    if operation.attempts > _MOST_ATTEMPTS:
        detail = f"it was begun {operation.attempts - 1} times and its worker died each time; the workers' logs say why"
        _end(state, operation.id, FAILED, {"code": "worker-died", "detail": detail})
        return FAILED
    run = Run(
        installation=state.installation,
        operation_id=operation.id,
        worker_id=state.worker_id,
        request=operation.request,
        created_by=operation.created_by,
        memory=_remember,
        is_stopping=state.stopping.is_set,
        observe=state.hooks.observe,
    )
    run.observe("begin")
    start = time.perf_counter()
    ended, error = SUCCEEDED, None
    try:
        WORKFLOWS[operation.kind](run)
    except Ended as end:
        ended, error = end.state, {"code": end.code, "detail": end.detail}
        run.facts |= end.facts
    _end(state, operation.id, ended, error)
    log.info("operation_ended", operation_id=operation.id, state=ended, seconds=round(time.perf_counter() - start, 2))
    return ended


def _remember(name: str, work: Callable[[], Facts]) -> Facts:
    return DBOS.run_step({"name": name}, work)


def _end(state: _State, operation_id: str, ended: str, error: Facts | None) -> None:
    while True:
        try:
            end_operation(state.installation.database, operation_id, state.worker_id, ended, error)
        except DatabaseError as failure:
            log.warning("operation_waits_for_database", operation_id=operation_id, reason=str(failure))
            if state.stopping.wait(5.0):
                raise WorkerStopping from failure
        else:
            return


def _wait_until_idle(state: _State) -> None:
    until = time.monotonic() + _STOP_SECONDS
    while state.at_work and time.monotonic() < until:
        time.sleep(0.05)
    if state.at_work:
        log.error("worker_gives_up_waiting", operations=sorted(state.at_work))


@contextmanager
def _alive(installation: Installation, worker_id: str) -> Iterator[None]:
    """Hold the lock and the heartbeat of a living worker."""
    workers_dir = installation.settings.workers_dir
    workers_dir.mkdir(parents=True, exist_ok=True)
    path = workers_dir / f"{socket.gethostname()}.{worker_id}.lock"
    aside = workers_dir / f".{worker_id}"
    with aside.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Named when it is held: a file that is there and free belongs to nobody alive.
        aside.rename(path)
        register_process(installation.database, WORKER, worker_id)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            try:
                stop_process(installation.database, worker_id)
            except ServiceError as error:
                log.warning("worker_end_not_written", reason=str(error))


@contextmanager
def _engine(settings: Settings, state: _State) -> Iterator[None]:
    global _state
    _state = state
    logging.getLogger("dbos").setLevel(logging.WARNING)
    config: DBOSConfig = {
        "name": "akin",
        "system_database_url": settings.jobs_address,
        "executor_id": state.worker_id,
        "application_version": WORKFLOW_VERSION,
        "log_level": "WARNING",
        # JSON, not pickle: what stands in a database must not run.
        "serializer": DBOSPortableJSONSerializer(),
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=_POLL_SECONDS)
        yield
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)
        _state = None


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether SIGTERM or SIGINT has come; a second one ends the process at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def remember(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
