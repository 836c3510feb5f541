"""The execution of one operation as its steps see it: `Run` performs each step once and records how it ended.

A step's function receives the `Run` and returns facts (JSON) for later steps and for people. Whatever it leaves behind
is named after the operation, so that a repeated step finds it. A worker can die after a step has ended and before the
engine has recorded that: every step must therefore be repeatable.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from embedding.stages import StageReport
from service.errors import KNOWN_ERRORS, code_of, reason_of
from service.installation.installation import Installation
from service.operations.claims import begin_step, finish_step, owned_operation
from service.storage.errors import DatabaseUnavailable
from service.storage.tables.operations import CANCELLED, FAILED, REJECTED

# How long a step waits for a database that does not answer before the operation fails.
_DATABASE_SECONDS = 600.0
_DATABASE_PAUSE_SECONDS = 5.0
_SECONDS_BETWEEN_POLLS = 1.0

log = structlog.get_logger(__name__)

Facts = dict[str, Any]
# Called with a name and work; returns the result of the work, or the one recorded when it was performed before.
StepRunner = Callable[[str, Callable[[], Facts]], Facts]


class WorkerStopping(BaseException):
    """The worker was asked to stop; the operation continues later.

    Not an Exception, so that no step handles it as a failure of its own.
    """


class Ended(Exception):
    """The operation ends here, in a state other than success."""

    def __init__(self, state: str, code: str, detail: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(detail)
        self.state, self.code, self.detail = state, code, detail
        self.facts = dict(facts or {})


@dataclass(slots=True)
class Run:
    """What steps work with: the installation, the request and the facts so far; and how they report progress."""

    installation: Installation
    operation_id: str
    worker_id: str
    request: Mapping[str, Any]
    created_by: str
    run_once: StepRunner
    is_stopping: Callable[[], bool] = lambda: False
    # Called with "before NAME", "within NAME" (done, not yet recorded by the engine), "after NAME": tests kill there.
    on_point: Callable[[str], None] = lambda _point: None
    # Called with the name, outcome and seconds of each step that was performed here.
    record_step: Callable[[str, str, float], None] = lambda _step, _outcome, _seconds: None
    # Called with what the stages of bulk embedding did since the last call.
    record_stages: Callable[[StageReport], None] = lambda _stages: None
    facts: Facts = field(default_factory=dict)
    _polled_at: float = 0.0
    _stage: str = ""
    _stage_begun: tuple[float, int] = (0.0, 0)

    @property
    def folder(self) -> Path:
        """The operation's folder."""
        return self.installation.settings.operations_dir / self.operation_id

    def step(self, name: str, work: Callable[["Run"], Mapping[str, Any]]) -> Facts:
        """Perform a step unless it has been performed, and return its facts; raises Ended if it ends the operation."""
        self.on_point(f"before {name}")
        outcome = self.run_once(name, lambda: self._measured_outcome(name, work))
        self.on_point(f"after {name}")
        self.facts |= outcome["facts"]
        if outcome.get("end"):
            raise Ended(**outcome["end"])
        return dict(outcome["facts"])

    def check(self) -> None:
        """Raise Ended after a cancel, or WorkerStopping; cheap, since the row is read once a second at most."""
        if self.is_stopping():
            raise WorkerStopping
        if time.monotonic() - self._polled_at >= _SECONDS_BETWEEN_POLLS:
            self._poll(None)

    def report(self, stage: str, done: int, total: int, **more: object) -> None:
        """Record the progress of a step, once a second at most; raises like `check`."""
        if self.is_stopping():
            raise WorkerStopping
        moment = time.monotonic()
        if stage != self._stage or done < self._stage_begun[1]:
            self._stage, self._stage_begun = stage, (moment, done)
        elif moment - self._polled_at < _SECONDS_BETWEEN_POLLS and done < total:
            return
        begun, first = self._stage_begun
        rate = (done - first) / (moment - begun) if moment > begun else 0.0
        progress: Facts = {"stage": stage, "done": done, "total": total}
        if rate > 0:
            progress |= {"per_second": round(rate, 3), "seconds_left": round((total - done) / rate, 1)}
        self._poll({**progress, **more})

    def _poll(self, progress: Facts | None) -> None:
        """Read whether a cancel was requested, and write the progress."""
        self._polled_at = time.monotonic()
        try:
            with owned_operation(self.installation.database, self.operation_id, self.worker_id) as operation:
                is_cancelled = operation.cancel_requested_at is not None
                if progress is not None:
                    operation.progress = progress
        except DatabaseUnavailable as error:
            # A step that does not need the database continues without it.
            log.warning("operation_progress_not_written", operation_id=self.operation_id, reason=reason_of(error))
            return
        if is_cancelled:
            self._raise_cancelled()

    def _measured_outcome(self, name: str, work: Callable[["Run"], Mapping[str, Any]]) -> Facts:
        start = time.perf_counter()
        outcome = self._outcome(name, work)
        end = outcome.get("end")
        self.record_step(name, end["state"] if end else "done", time.perf_counter() - start)
        return outcome

    def _outcome(self, name: str, work: Callable[["Run"], Mapping[str, Any]]) -> Facts:
        """Perform the work; the end of the operation is an outcome too, which the engine records like any other."""
        start = time.perf_counter()
        unavailable_since: float | None = None
        while True:
            try:
                is_cancelled = begin_step(self.installation.database, self.operation_id, self.worker_id, name)
                unavailable_since, self._polled_at = None, 0.0
                if is_cancelled:
                    self._raise_cancelled()
                return self._perform(name, work, start)
            except DatabaseUnavailable as error:
                unavailable_since = unavailable_since or time.monotonic()
                if time.monotonic() - unavailable_since > _DATABASE_SECONDS:
                    return _end(FAILED, code_of(error), str(error))
                log.warning("operation_waits_for_database", operation_id=self.operation_id, reason=reason_of(error))
                self._wait(_DATABASE_PAUSE_SECONDS)
            except Ended as end:
                return _end(end.state, end.code, end.detail, end.facts)
            except (*KNOWN_ERRORS, OSError) as error:
                log.warning("operation_step_failed", operation_id=self.operation_id, step=name, reason=reason_of(error))
                return _end(FAILED, code_of(error), str(error))
            except Exception:
                log.exception("operation_step_failed", operation_id=self.operation_id, step=name)
                return _end(FAILED, "internal-error", f"the step {name} failed unexpectedly; see the worker's log")

    def _perform(self, name: str, work: Callable[["Run"], Mapping[str, Any]], start: float) -> Facts:
        """Perform the work and write its facts to the row, also those of a rejection."""
        end: Ended | None = None
        try:
            facts = dict(work(self))
        except Ended as ended:
            if ended.state != REJECTED:
                raise
            end, facts = ended, ended.facts
        seconds = time.perf_counter() - start
        finish_step(self.installation.database, self.operation_id, self.worker_id, name, facts, seconds)
        self.on_point(f"within {name}")
        log.info("operation_step", operation_id=self.operation_id, step=name, seconds=round(seconds, 2))
        return {"facts": facts} if end is None else _end(end.state, end.code, end.detail, facts)

    def _raise_cancelled(self) -> None:
        # Once its release is active, the operation has succeeded; only cleaning up remains.
        if not self.facts.get("is_active"):
            raise Ended(CANCELLED, "cancelled", "cancelled on request")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.is_stopping():
                raise WorkerStopping
            time.sleep(0.1)


def reject(code: str, detail: str, facts: Mapping[str, object] | None = None) -> Ended:
    """Return the end of an operation that worked correctly, but whose result is not good enough."""
    return Ended(REJECTED, code, detail, facts)


def _end(state: str, code: str, detail: str, facts: Facts | None = None) -> Facts:
    return {"facts": facts or {}, "end": {"state": state, "code": code, "detail": detail}}
