"""Which workers live: each holds a lock on a file of its name, and writes a heartbeat.

A lock is exact, and seen on the same machine only; a heartbeat is seen everywhere, and late.
"""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from service.errors import ServiceError
from service.installation import Installation
from service.processes import WORKER, living_processes, register_process, stop_process

log = structlog.get_logger(__name__)


@contextmanager
def alive(installation: Installation, worker_id: str) -> Iterator[None]:
    """Hold the lock and the row of a living worker for as long as the block runs."""
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


def living_workers(installation: Installation, own_id: str) -> set[str]:
    """Return the ids of the workers that live, as far as can be seen from here.

    Nothing is concluded from a row that is missing but that its worker is gone: rows are pruned after a day.
    """
    held, free = _locks(installation.settings.workers_dir, own_id)
    for worker_id in free:
        stop_process(installation.database, worker_id)
    within_seconds = installation.settings.worker_takeover_seconds
    with installation.database.reading() as session:
        heard = {process.id for process in living_processes(session, WORKER, within_seconds)}
    return (heard - free) | held | {own_id}


def _locks(workers_dir: Path, own_id: str) -> tuple[set[str], set[str]]:
    """Return the workers of this machine whose lock is held, and those whose lock is free; the latter files go."""
    held, free = set(), set()
    for path in workers_dir.glob(f"{socket.gethostname()}.*.lock"):
        worker_id = path.name.split(".")[-2]
        if worker_id == own_id:
            continue
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            free.add(worker_id)
        except BlockingIOError:
            held.add(worker_id)
        except FileNotFoundError:
            continue
    return held, free
