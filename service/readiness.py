"""Whether a process is to be given requests, and which of release, database and disk is in the way.

Nothing here asks or waits: each part was looked at a moment ago by whoever does so anyway, so that /readyz is quick
when a database or a disk hangs.
"""

import time
from dataclasses import dataclass, field
from typing import Literal

from service.engine import LiveEngine
from service.errors import NotReady
from service.schemas import Readiness, ReadinessCheck, ReadinessChecks, ReleaseCheck
from service.storage.disk import DiskWatch

# A question that was asked so long ago and has no answer yet will get none.
_SILENT_SECONDS = 5.0


class DatabaseState:
    """What the last poll for the active release found out about the database."""

    def __init__(self) -> None:
        self._asked_at: float | None = None  # of a question without an answer
        self._reason: str | None = None

    def asking(self) -> None:
        """Note that the database is asked now."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    def answered(self) -> None:
        """Note that it has answered."""
        self._asked_at, self._reason = None, None

    def failed(self, reason: str) -> None:
        """Note that it has not; `reason` is shown to anybody, so it names no host and no user."""
        self._asked_at, self._reason = None, reason

    def problem(self) -> str | None:
        """Say what is wrong with the database; None where nothing is."""
        if self._asked_at is not None and time.monotonic() - self._asked_at > _SILENT_SECONDS:
            return f"the database has not answered for {time.monotonic() - self._asked_at:.0f} s"
        return self._reason


@dataclass(slots=True)
class ProcessState:
    """State of a process as a whole: `create_app` makes it as `app.state.process_state`.

    Whoever ends the process sets `is_draining` first, from any thread: /readyz then answers 503 at once, and the
    gateway sends requests elsewhere, while those that still come are answered.
    """

    is_draining: bool = False
    database: DatabaseState = field(default_factory=DatabaseState)


def check_readiness(live: LiveEngine, state: ProcessState, disk: DiskWatch) -> Readiness:
    """Say how ready the process is; raises NotReady where it is to be given no requests.

    A database or a disk that is away does not stop searches, and so does not make a process not ready.
    """
    release_id, refusal = live.release_id, live.refusal
    problem = refusal
    if release_id is None and refusal is None:
        problem = "no release is active yet; build one: akin index build"
    checks = ReadinessChecks(
        release=ReleaseCheck(ok=problem is None, reason=problem, release_id=release_id),
        database=_check(state.database.problem()),
        disk=_check(disk.problem()),
    )
    if state.is_draining:
        raise NotReady("the process is about to end; send requests to another", checks.model_dump())
    if release_id is None:
        raise NotReady(f"no search can be answered: {problem}", checks.model_dump())
    is_all_well = checks.release.ok and checks.database.ok and checks.disk.ok
    status: Literal["ready", "degraded"] = "ready" if is_all_well else "degraded"
    return Readiness(status=status, release_id=release_id, warning=refusal, checks=checks)


def _check(problem: str | None) -> ReadinessCheck:
    return ReadinessCheck(ok=problem is None, reason=problem)
