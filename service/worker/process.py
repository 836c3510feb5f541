"""The worker: a process that does what operations ask for, on DBOS, one at a time.

DBOS remembers which steps of a workflow are done; the rows of `operations` say what there is to do and for whom. The
two are joined by the operation's id, which is the workflow's too: handing one over twice is handing it over once.

A worker that is gone keeps nothing: each has an id of its own, a lock on a file of that name for as long as it lives,
and a heartbeat. Whoever finds the lock free (the same machine), or the heartbeat older than `worker_takeover_seconds`
(any other), puts what that worker had back into the queue. DBOS does so once, however many try; and the worker named
in the operation's row is then another, so one that was only slow can write nothing any more.
"""

import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import structlog
from dbos import DBOS, SetWorkflowID

from service.errors import StorageFull, reason_of
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.operations.queueing import remove_stray_folders
from service.operations.records import (
    ACTIVE_STATES,
    OperationLost,
    claim_operation,
    end_operation,
    list_operations,
    release_claim,
)
from service.storage.errors import DatabaseError
from service.storage.tables.operations import FAILED, SUCCEEDED, Operation
from service.worker.job_engine import job_engine
from service.worker.liveness import Heart, alive, living_workers
from service.worker.metrics import WorkerMetrics
from service.worker.run import Ended, Facts, Run, WorkerStopping
from service.worker.steps.publishing import clean_up
from service.worker.workflows import WORKFLOW_VERSION, WORKFLOWS

QUEUE = "operations"
_WORKFLOW = "operation"
_POLL_SECONDS = 0.5
_SECONDS_BETWEEN_ROUNDS = 3.0  # of looking who lives
_DATABASE_PAUSE_SECONDS = 5.0
_ENDED_STATUSES = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
# How long an orderly end may take: training saves its state.
_STOP_SECONDS = 120.0
# Begun so often without finishing a step, an operation is what kills its workers.
_MOST_ATTEMPTS = 10

_NOT_NOW = (DatabaseError, StorageFull)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WorkerHooks:
    """Who watches a worker, and may stop it."""

    should_stop: Callable[[], bool] = lambda: False
    observe: Callable[[str], None] = lambda _point: None
    until_idle: bool = False  # end when nothing is queued or under way
    started: Callable[[str], None] = lambda _worker_id: None
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)


@dataclass(slots=True)
class _State:
    """What the worker's threads share."""

    installation: Installation
    worker_id: str
    hooks: WorkerHooks
    heart: Heart
    stopping: threading.Event = field(default_factory=threading.Event)
    at_work: set[str] = field(default_factory=set)  # ids of operations
    handed_over: set[str] = field(default_factory=set)


# DBOS calls the workflow by its name, and hands over nothing but its arguments: one worker a process.
_state: _State | None = None


def run_worker(settings: Settings, hooks: WorkerHooks | None = None) -> None:
    """Do the work of operations until asked to stop (SIGTERM, SIGINT, or the hooks), then end in good order.

    Training saves its state first, and the operation goes on later, here or in another worker.
    """
    hooks = hooks or WorkerHooks()
    worker_id = secrets.token_hex(8)
    with open_installation(settings) as installation, alive(installation, worker_id) as heart, _signals() as is_asked:
        state = _State(installation, worker_id, hooks, heart)
        with hooks.metrics.telling_of(installation), _engine(settings, state):
            remove_stray_folders(installation)
            hooks.started(worker_id)
            log.info("worker_started", worker_id=worker_id, host=socket.gethostname())
            _loop(state, lambda: is_asked() or hooks.should_stop())
            state.stopping.set()
            _wait_until_idle(state)
        log.info("worker_stopped", worker_id=worker_id, reason="signal" if is_asked() else "nothing left to do")


def _loop(state: _State, should_stop: Callable[[], bool]) -> None:
    next_round = 0.0
    while not should_stop():
        try:
            if time.monotonic() >= next_round:
                if state.heart.is_settled:
                    _take_over(state)
                    _end_what_has_no_workflow(state)
                    state.hooks.metrics.note_round()
                next_round = time.monotonic() + _SECONDS_BETWEEN_ROUNDS
            if not _hand_over(state) and state.hooks.until_idle and not state.at_work:
                return
        except _NOT_NOW as error:
            log.warning("worker_waits_for_database", reason=reason_of(error))
            time.sleep(1.0)
        except Exception:
            log.exception("worker_loop_failed")
            time.sleep(1.0)
        time.sleep(_POLL_SECONDS)


def _hand_over(state: _State) -> bool:
    """Give DBOS what is queued and not yet known to it; say whether any operation is queued or under way."""
    active = _active_operations(state)
    for operation in active:
        if operation.id in state.handed_over or operation.kind not in WORKFLOWS:
            continue
        # Where DBOS lost its own records, what is called running is begun again: its steps find what they have made.
        with SetWorkflowID(operation.id):
            DBOS.enqueue_workflow(QUEUE, _workflow, operation.id)
        state.handed_over.add(operation.id)
    return bool(active)


def _take_over(state: _State) -> None:
    """Put back what workers had that are gone; asked again and again, since each may die at any moment."""
    pending = DBOS.list_workflows(status=["PENDING"], load_input=False, load_output=False)
    owners = {workflow.executor_id for workflow in pending if workflow.executor_id}
    if owners <= {state.worker_id}:
        return
    for worker_id in sorted(owners - living_workers(state.installation, state.worker_id)):
        # Only workflows that still name that worker are put back, by whoever comes first.
        for handle in DBOS._recover_pending_workflows([worker_id]):
            log.warning("operation_taken_over", operation_id=handle.get_workflow_id(), worker_id=worker_id)


def _end_what_has_no_workflow(state: _State) -> None:
    """End operations whose workflow has ended without them, or is of another version of Akin and of no living worker.

    Else they would be called running for ever, and stand in the way of all that follow.
    """
    active = _active_operations(state)
    if not active:
        return
    ids = [operation.id for operation in active]
    workflows = {
        workflow.workflow_id: workflow
        for workflow in DBOS.list_workflows(workflow_ids=ids, load_input=False, load_output=False)
    }
    living = living_workers(state.installation, state.worker_id)
    for workflow in workflows.values():
        is_other_version = workflow.app_version not in (None, WORKFLOW_VERSION)
        if workflow.status in _ENDED_STATUSES:
            code, detail = "internal-error", f"its workflow has ended as {workflow.status} without it; ask for it again"
        elif is_other_version and workflow.executor_id not in living:
            code, detail = "worker-upgraded", "it was begun by another version of Akin; ask for it again"
        else:
            continue
        if claim_operation(state.installation.database, workflow.workflow_id, state.worker_id) is not None:
            log.error("operation_without_workflow", operation_id=workflow.workflow_id, code=code)
            _end(state, workflow.workflow_id, FAILED, {"code": code, "detail": detail})


def _active_operations(state: _State) -> list[Operation]:
    with state.installation.database.reading() as session:
        return list_operations(session, states=ACTIVE_STATES, limit=1000)


@DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
def _workflow(operation_id: str) -> str:
    """Do one operation; what DBOS remembers as its result is the state that it ended in."""
    state = _state
    assert state is not None
    if state.stopping.is_set():
        raise WorkerStopping
    operation = _claim(state, operation_id)
    if operation is None:
        return "ended before"
    state.at_work.add(operation_id)
    try:
        return _work(state, operation)
    except WorkerStopping:
        try:
            release_claim(state.installation.database, operation_id, state.worker_id)
        except _NOT_NOW as error:
            # It counts as one attempt more, and that is all.
            log.warning("claim_not_released", operation_id=operation_id, reason=reason_of(error))
        log.info("operation_goes_on_later", operation_id=operation_id)
        raise
    except OperationLost:
        log.warning("operation_lost", operation_id=operation_id, reason="another worker has taken it over")
        raise
    finally:
        state.at_work.discard(operation_id)


def _claim(state: _State, operation_id: str) -> Operation | None:
    """Claim an operation, however long the database is away: an error here would end the workflow for good."""
    while True:
        try:
            return claim_operation(state.installation.database, operation_id, state.worker_id)
        except _NOT_NOW as error:
            log.warning("operation_waits_for_database", operation_id=operation_id, reason=reason_of(error))
            if state.stopping.wait(_DATABASE_PAUSE_SECONDS):
                raise WorkerStopping from error


def _work(state: _State, operation: Operation) -> str:
    run = Run(
        installation=state.installation,
        operation_id=operation.id,
        worker_id=state.worker_id,
        request=operation.request,
        created_by=operation.created_by,
        memory=_remember,
        is_stopping=state.stopping.is_set,
        observe=state.hooks.observe,
        record_step=state.hooks.metrics.record_step,
    )
    start = time.perf_counter()
    ended, error = _outcome(run, operation)
    _end(state, operation.id, ended, error)
    log.info("operation_ended", operation_id=operation.id, state=ended, seconds=round(time.perf_counter() - start, 2))
    clean_up(run, is_published=ended == SUCCEEDED)
    return ended


def _outcome(run: Run, operation: Operation) -> tuple[str, Facts | None]:
    """Do the steps; return the state that the operation ends in, and why."""
    if operation.attempts > _MOST_ATTEMPTS:
        detail = f"it was begun {operation.attempts - 1} times and its worker died each time; the workers' logs say why"
        return FAILED, {"code": "worker-died", "detail": detail}
    run.observe("begin")
    try:
        WORKFLOWS[operation.kind](run)
    except Ended as end:
        return end.state, {"code": end.code, "detail": end.detail}
    except Exception:
        # Between two steps there is nothing that may fail; where it does, nothing is left hanging.
        log.exception("operation_failed", operation_id=operation.id)
        return FAILED, {"code": "internal-error", "detail": "it failed unexpectedly; the worker's log says why"}
    return SUCCEEDED, None


def _remember(name: str, work: Callable[[], Facts]) -> Facts:
    return DBOS.run_step({"name": name}, work)


def _end(state: _State, operation_id: str, ended: str, error: Facts | None) -> None:
    while True:
        try:
            end_operation(state.installation.database, operation_id, state.worker_id, ended, error)
        except _NOT_NOW as failure:
            log.warning("operation_waits_for_database", operation_id=operation_id, reason=reason_of(failure))
            if state.stopping.wait(_DATABASE_PAUSE_SECONDS):
                raise WorkerStopping from failure
        else:
            return


def _wait_until_idle(state: _State) -> None:
    until = time.monotonic() + _STOP_SECONDS
    while state.at_work and time.monotonic() < until:
        if state.heart.is_settled:
            state.hooks.metrics.note_round()
        time.sleep(0.05)
    if state.at_work:
        log.error("worker_gives_up_waiting", operations=sorted(state.at_work))


@contextmanager
def _engine(settings: Settings, state: _State) -> Iterator[None]:
    global _state
    _state = state
    try:
        with job_engine(settings, worker_id=state.worker_id, version=WORKFLOW_VERSION):
            DBOS.register_queue(QUEUE, worker_concurrency=1, polling_interval_sec=_POLL_SECONDS)
            yield
    finally:
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
