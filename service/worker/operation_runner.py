"""Perform one operation from its claim to its end."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from embedding.stages import StageReport
from service.errors import StorageFull, reason_of
from service.installation.installation import Installation
from service.operations.claims import OperationLost, claim_operation, end_operation, give_back_operation
from service.operations.kinds import IMPORT_KINDS
from service.operations.uploads import remove_upload
from service.storage.errors import DatabaseError
from service.storage.tables.operations import FAILED, SUCCEEDED, Operation
from service.worker.run import Ended, Facts, Run, StepRunner, WorkerStopping
from service.worker.steps.publishing import clean_up
from service.worker.workflows import WORKFLOWS

# Errors of the database after which an operation or a worker waits and tries again.
TEMPORARY_ERRORS = (DatabaseError, StorageFull)

_DATABASE_PAUSE_SECONDS = 5.0
# Started this many times without finishing a step, an operation is assumed to kill its workers, and fails.
_MAX_ATTEMPTS = 10

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class OperationRunner:
    """Performs operations for one worker; the engine calls it from threads of its own, one for each queue."""

    installation: Installation
    worker_id: str
    run_once: StepRunner
    on_point: Callable[[str], None]
    record_step: Callable[[str, str, float], None]
    record_stages: Callable[[StageReport], None] = lambda _stages: None
    at_work: set[str] = field(default_factory=set)  # ids of the operations that are performed now
    stopping: threading.Event = field(default_factory=threading.Event)

    def perform(self, operation_id: str) -> str:
        """Perform an operation and return the state that it ended in.

        Raises WorkerStopping, and OperationLost if another worker owns the operation now; then it has not ended.
        """
        # Before the check: a worker that stops waits for all operations in `at_work`.
        self.at_work.add(operation_id)
        try:
            if self.stopping.is_set():
                raise WorkerStopping
            operation = self._retry(lambda: self._claim(operation_id), operation_id)
            return self._perform(operation) if operation is not None else "ended before"
        except WorkerStopping:
            self._release(operation_id)
            raise
        except OperationLost:
            log.warning("operation_lost", operation_id=operation_id, reason="another worker has taken it over")
            raise
        finally:
            self.at_work.discard(operation_id)

    def _perform(self, operation: Operation) -> str:
        run = Run(
            installation=self.installation,
            operation_id=operation.id,
            worker_id=self.worker_id,
            request=operation.request,
            created_by=operation.created_by,
            run_once=self.run_once,
            is_stopping=self.stopping.is_set,
            on_point=self.on_point,
            record_step=self.record_step,
            record_stages=self.record_stages,
        )
        start = time.perf_counter()
        state, error = _outcome(run, operation)
        self._retry(
            lambda: end_operation(self.installation.database, operation.id, self.worker_id, state, error),
            operation.id,
        )
        seconds = round(time.perf_counter() - start, 2)
        log.info("operation_ended", operation_id=operation.id, state=state, seconds=seconds)
        remove_upload(self.installation, operation.id)
        if operation.kind not in IMPORT_KINDS:
            clean_up(run, is_published=state == SUCCEEDED)
        return state

    def _claim(self, operation_id: str) -> Operation | None:
        return claim_operation(self.installation.database, operation_id, self.worker_id)

    def _release(self, operation_id: str) -> None:
        try:
            give_back_operation(self.installation.database, operation_id, self.worker_id)
        except TEMPORARY_ERRORS as error:
            # Then the stop counts as an attempt, which does no harm.
            log.warning("claim_not_released", operation_id=operation_id, reason=reason_of(error))
        except OperationLost:
            return  # not claimed yet, or taken over
        log.info("operation_goes_on_later", operation_id=operation_id)

    def _retry(self, write: Callable[[], T], operation_id: str) -> T:
        """Write, however long the database does not answer: an error here would end the workflow."""
        while True:
            try:
                return write()
            except TEMPORARY_ERRORS as error:
                log.warning("operation_waits_for_database", operation_id=operation_id, reason=reason_of(error))
                if self.stopping.wait(_DATABASE_PAUSE_SECONDS):
                    raise WorkerStopping from error


def _outcome(run: Run, operation: Operation) -> tuple[str, Facts | None]:
    """Perform the steps; return the state that the operation ends in, and the error."""
    if operation.attempts > _MAX_ATTEMPTS:
        detail = f"it was begun {operation.attempts - 1} times and its worker died each time; see the workers' logs"
        return FAILED, {"code": "worker-died", "detail": detail}
    run.on_point("begin")
    try:
        WORKFLOWS[operation.kind](run)
    except Ended as end:
        return end.state, {"code": end.code, "detail": end.detail}
    except Exception as error:
        if run.is_stopping():
            # The worker has given up waiting, and its engine is gone; the operation continues elsewhere.
            raise WorkerStopping from error
        # Nothing between two steps is expected to fail; if something does, the operation must still end.
        log.exception("operation_failed", operation_id=operation.id)
        return FAILED, {"code": "internal-error", "detail": "it failed unexpectedly; see the worker's log"}
    return SUCCEEDED, None
