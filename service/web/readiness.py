"""Readiness of a process: its release, its network, its index, its database and its disk.

Nothing here waits: other parts check the network, the database and the disk in the background, so that /readyz responds
quickly even if one of them hangs.
"""

from dataclasses import dataclass, field
from typing import Literal

from service.serving.database_state import DatabaseState
from service.serving.engine import LiveEngine
from service.serving.network_check import NetworkState
from service.storage.disk import DiskWatch
from service.web.errors import NotReady
from service.web.schemas.health import Readiness, ReadinessCheck, ReadinessChecks, ReleaseCheck


@dataclass(slots=True)
class ProcessState:
    """State of the whole process; `create_app` stores it as `app.state.process_state`.

    The shutdown begins with `is_draining`, which any thread may set. /readyz then responds 503, so that the gateway
    sends requests elsewhere; requests that still arrive are served.
    """

    is_draining: bool = False
    database: DatabaseState = field(default_factory=DatabaseState)
    network: NetworkState = field(default_factory=NetworkState)


def check_readiness(live: LiveEngine, state: ProcessState, disk: DiskWatch) -> Readiness:
    """Return the readiness of the process; raises NotReady if it should receive no requests.

    Searches need neither the database nor the disk, so without them the process is degraded but ready. So is one whose
    index does not fit on the GPU.
    """
    release_id, refusal = live.release_id, live.refusal
    problem = refusal
    if release_id is None and refusal is None:
        problem = "no release is active yet; build one: akin index build"
    checks = ReadinessChecks(
        release=ReleaseCheck(ok=problem is None, reason=problem, release_id=release_id),
        network=_check(state.network.problem()),
        index=_check(live.index_fallback),
        database=_check(state.database.problem()),
        disk=_check(disk.problem()),
    )
    if state.is_draining:
        raise NotReady("the process is shutting down; send requests to another", checks.model_dump())
    if release_id is None:
        raise NotReady(f"searches are not possible: {problem}", checks.model_dump())
    if not checks.network.ok:
        raise NotReady(f"searches are not possible: {checks.network.reason}", checks.model_dump())
    are_all_ok = all((checks.release.ok, checks.index.ok, checks.database.ok, checks.disk.ok))
    status: Literal["ready", "degraded"] = "ready" if are_all_ok else "degraded"
    return Readiness(status=status, release_id=release_id, warning=refusal, checks=checks)


def _check(problem: str | None) -> ReadinessCheck:
    return ReadinessCheck(ok=problem is None, reason=problem)
