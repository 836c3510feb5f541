"""One operation at work: its steps, each done once and remembered, and how it may end.

A step's function gets the `Run` and returns facts (JSON) that later steps and people read. What it leaves behind it
names after the operation, so that doing it again after a kill finds what is there. Between a step's end and the memory
of it lies a moment in which a worker can die: every step is therefore safe to repeat.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog

from service.errors import KNOWN_ERRORS, code_of, reason_of
from service.installation.installation import Installation
from service.operations.records import begin_step, finish_step, owned_operation
from service.storage.errors import DatabaseUnavailable
from service.storage.tables.operations import CANCELLED, FAILED, REJECTED

# How long a step waits for a database that is away before the operation fails.
_DATABASE_SECONDS = 600.0
_DATABASE_PAUSE_SECONDS = 5.0
_SECONDS_BETWEEN_PULSES = 1.0

log = structlog.get_logger(__name__)

Facts = dict[str, Any]


class WorkerStopping(BaseException):
    """The worker has been asked to end; the operation goes on later. No Exception: a step must not take it for one."""


class Ended(Exception):
    """The operation ends here, in a state other than success."""

    def __init__(self, state: str, code: str, detail: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(detail)
        self.state, self.code, self.detail = state, code, detail
        self.facts = dict(facts or {})


class Memory(Protocol):
    """Does a piece of work once and remembers what it returned (JSON), through a kill of the process too."""

    def __call__(self, name: str, work: Callable[[], Facts]) -> Facts:
        """Return what the work of this name returned when it was done first."""
        ...


def _nothing(_point: str) -> None:
    """Watch nothing."""


def _unrecorded(_step: str, _outcome: str, _seconds: float) -> None:
    """Measure nothing."""


@dataclass(slots=True)
class Run:
    """What a step works with: the installation, the request, what is known so far; and how it reports."""

    installation: Installation
    operation_id: str
    worker_id: str
    request: Mapping[str, Any]
    created_by: str
    memory: Memory
    is_stopping: Callable[[], bool] = lambda: False
    # Told "before NAME", "within NAME" (done, not yet remembered), "after NAME": tests kill the worker there.
    observe: Callable[[str], None] = _nothing
    # Told how each step that was done here ended, and how long it took.
    record_step: Callable[[str, str, float], None] = _unrecorded
    facts: Facts = field(default_factory=dict)
    _pulse_at: float = 0.0
    _stage: str = ""
    _stage_begun: tuple[float, int] = (0.0, 0)

    @property
    def folder(self) -> Path:
        """The operation's folder."""
        return self.installation.settings.operations_dir / self.operation_id

    def step(self, name: str, work: Callable[["Run"], Mapping[str, Any]]) -> Facts:
        """Do a step unless it has been done, and return what it found; raises Ended where it ends the operation."""
        self.observe(f"before {name}")
        outcome = self.memory(name, lambda: self._recorded_outcome(name, work))
        self.observe(f"after {name}")
        self.facts |= outcome["facts"]
        if outcome.get("end"):
            raise Ended(**outcome["end"])
        return dict(outcome["facts"])

    def check(self) -> None:
        """Raise Ended or WorkerStopping when the work is to stop here; cheap enough to be called all the time."""
        if self.is_stopping():
            raise WorkerStopping
        if time.monotonic() - self._pulse_at >= _SECONDS_BETWEEN_PULSES:
            self._pulse(None)

    def report(self, stage: str, done: int, total: int, **more: object) -> None:
        """Say how far a step is, for people; at most once a second it is written down. Checks as `check` does."""
        if self.is_stopping():
            raise WorkerStopping
        moment = time.monotonic()
        if stage != self._stage or done < self._stage_begun[1]:
            self._stage, self._stage_begun = stage, (moment, done)
        elif moment - self._pulse_at < _SECONDS_BETWEEN_PULSES and done < total:
            return
        begun, first = self._stage_begun
        rate = (done - first) / (moment - begun) if moment > begun else 0.0
        progress: Facts = {"stage": stage, "done": done, "total": total}
        if rate > 0:
            progress |= {"per_second": round(rate, 3), "seconds_left": round((total - done) / rate, 1)}
        self._pulse({**progress, **more})

    def _pulse(self, progress: Facts | None) -> None:
        self._pulse_at = time.monotonic()
        try:
            with owned_operation(self.installation.database, self.operation_id, self.worker_id) as operation:
                is_cancelled = operation.cancel_requested_at is not None
                if progress is not None:
                    operation.progress = progress
        except DatabaseUnavailable as error:
            # Work that needs no database goes on without one.
            log.warning("operation_progress_not_written", operation_id=self.operation_id, reason=reason_of(error))
            return
        if is_cancelled:
            self._raise_cancelled()

    def _recorded_outcome(self, name: str, work: Callable[["Run"], Mapping[str, Any]]) -> Facts:
        start = time.perf_counter()
        outcome = self._outcome(name, work)
        end = outcome.get("end")
        self.record_step(name, end["state"] if end else "done", time.perf_counter() - start)
        return outcome

    def _outcome(self, name: str, work: Callable[["Run"], Mapping[str, Any]]) -> Facts:
        """Do the work; an end of the operation is an outcome as well, to be remembered like any other."""
        start = time.perf_counter()
        away_since: float | None = None
        while True:
            try:
                is_cancelled = begin_step(self.installation.database, self.operation_id, self.worker_id, name)
                away_since, self._pulse_at = None, 0.0
                if is_cancelled:
                    self._raise_cancelled()
                return self._done(name, work, start)
            except DatabaseUnavailable as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _DATABASE_SECONDS:
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
                return _end(FAILED, "internal-error", f"the step {name} failed unexpectedly; the worker's log says why")

    def _done(self, name: str, work: Callable[["Run"], Mapping[str, Any]], start: float) -> Facts:
        """Do the work and write down what it found; a rejection is found as well."""
        end: Ended | None = None
        try:
            facts = dict(work(self))
        except Ended as ended:
            if ended.state != REJECTED:
                raise
            end, facts = ended, ended.facts
        self._finish(name, facts, start)
        self.observe(f"within {name}")
        log.info("operation_step", operation_id=self.operation_id, step=name, seconds=_rounded(start))
        return {"facts": facts} if end is None else _end(end.state, end.code, end.detail, facts)

    def _raise_cancelled(self) -> None:
        # Past its activation an operation is done, whatever is still to be tidied.
        if not self.facts.get("is_active"):
            raise Ended(CANCELLED, "cancelled", "cancelled on request")

    def _finish(self, name: str, facts: Facts, start: float) -> None:
        seconds = time.perf_counter() - start
        finish_step(self.installation.database, self.operation_id, self.worker_id, name, facts, seconds)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.is_stopping():
                raise WorkerStopping
            time.sleep(0.1)


def reject(code: str, detail: str, facts: Mapping[str, object] | None = None) -> Ended:
    """Return the end of an operation that did all it should and found its result not good enough."""
    return Ended(REJECTED, code, detail, facts)


def _end(state: str, code: str, detail: str, facts: Facts | None = None) -> Facts:
    return {"facts": facts or {}, "end": {"state": state, "code": code, "detail": detail}}


def _rounded(start: float) -> float:
    return round(time.perf_counter() - start, 2)
