"""Which workers live: each holds a lock on a file of its name, and writes a heartbeat.

A lock is exact, and seen on the same machine only; a heartbeat is seen everywhere, and late.
"""

import fcntl
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from service.errors import ServiceError, reason_of
from service.installation.installation import Installation
from service.installation.processes import (
    WORKER,
    beat,
    living_processes,
    prune_processes,
    register_process,
    stop_process,
)

_BEAT_SECONDS = 3.0
# So long after an outage of the database nobody is taken for gone: all were silent, and each needs a moment.
_SETTLING_SECONDS = 4 * _BEAT_SECONDS

log = structlog.get_logger(__name__)


class Heart:
    """Says every few seconds that the worker lives, from a thread of its own: whatever else may wait for a database."""

    def __init__(self, installation: Installation, worker_id: str) -> None:
        self._database = installation.database
        self._worker_id = worker_id
        self._settled_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    @property
    def is_settled(self) -> bool:
        """Whether the silence of others means anything yet."""
        return time.monotonic() >= self._settled_at

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more once this has returned."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            try:
                beat(self._database, self._worker_id, kind=WORKER)
                with self._database.transaction() as session:
                    prune_processes(session)
            except ServiceError as error:
                log.warning("heartbeat_failed", reason=reason_of(error))
                self._settled_at = time.monotonic() + _SETTLING_SECONDS
            except Exception:
                log.exception("heartbeat_failed")


@contextmanager
def alive(installation: Installation, worker_id: str) -> Iterator[Heart]:
    """Hold the lock of a living worker, and say that it lives, for as long as the block runs."""
    workers_dir = installation.settings.workers_dir
    workers_dir.mkdir(parents=True, exist_ok=True)
    path = workers_dir / f"{socket.gethostname()}.{worker_id}.lock"
    aside = workers_dir / f".{worker_id}"
    with aside.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Named when it is held: a file that is there and free belongs to nobody alive.
        aside.rename(path)
        register_process(installation.database, WORKER, worker_id)
        heart = Heart(installation, worker_id)
        heart.start()
        try:
            yield heart
        finally:
            heart.stop()
            path.unlink(missing_ok=True)
            try:
                stop_process(installation.database, worker_id)
            except ServiceError as error:
                log.warning("worker_end_not_written", reason=reason_of(error))


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
