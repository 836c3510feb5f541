"""Whether a process is to be given requests, and which of release, database and disk is in the way.

Nothing here asks or waits: each part was looked at a moment ago by whoever does so anyway, so that /readyz is quick
when a database or a disk hangs.
"""

from dataclasses import dataclass, field
from typing import Literal

from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine
from service.storage.disk import DiskWatch
from service.web.errors import NotReady
from service.web.schemas.health import Readiness, ReadinessCheck, ReadinessChecks, ReleaseCheck


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
