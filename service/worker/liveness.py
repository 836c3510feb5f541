"""Which workers live: each writes a heartbeat to the database, and holds a lock on a file named after it.

The heartbeat decides everywhere, but late. The lock only shortens the wait on the same machine: the kernel releases it
when its process dies, however it dies. A process id could be used again, and means nothing in another container.
"""

import fcntl
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
# After an outage of the database no worker is declared dead until each has had time to report again.
_SETTLING_SECONDS = 4 * _BEAT_SECONDS

log = structlog.get_logger(__name__)


class Heartbeat:
    """Reports every few seconds that a worker lives, from a thread of its own that nothing else can block."""

    def __init__(
        self, installation: Installation, worker_id: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = installation.database
        self._worker_id = worker_id
        self._clock = clock
        self._reliable_at = clock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def is_silence_meaningful(self) -> bool:
        """Whether a worker that has not reported may be declared dead."""
        return self._clock() >= self._reliable_at

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; no heartbeat is written once this has returned."""
        self._stopped.set()
        self._thread.join()

    def beat(self) -> None:
        """Report once; a database that does not answer is logged."""
        try:
            beat(self._database, self._worker_id, kind=WORKER)
            with self._database.transaction() as session:
                prune_processes(session)
        except ServiceError as error:
            log.warning("heartbeat_failed", reason=reason_of(error))
            self._reliable_at = self._clock() + _SETTLING_SECONDS

    def _run(self) -> None:
        while not self._stopped.wait(_BEAT_SECONDS):
            try:
                self.beat()
            except Exception:
                log.exception("heartbeat_failed")


@contextmanager
def registered_worker(installation: Installation, worker_id: str) -> Iterator[Heartbeat]:
    """Hold a worker's lock, and report that it lives, for the block."""
    workers_dir = installation.settings.workers_dir
    workers_dir.mkdir(parents=True, exist_ok=True)
    path = workers_dir / f"{socket.gethostname()}.{worker_id}.lock"
    aside = workers_dir / f".{worker_id}"
    with aside.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Renamed once it is locked: an unlocked file under this name always belongs to a dead worker.
        aside.rename(path)
        register_process(installation.database, WORKER, worker_id)
        heartbeat = Heartbeat(installation, worker_id)
        heartbeat.start()
        try:
            yield heartbeat
        finally:
            heartbeat.stop()
            path.unlink(missing_ok=True)
            try:
                stop_process(installation.database, worker_id)
            except ServiceError as error:
                log.warning("worker_end_not_written", reason=reason_of(error))


def living_workers(installation: Installation, own_id: str) -> set[str]:
    """Return the ids of the living workers, this one included.

    A worker without a row is dead: rows are pruned a day after the last heartbeat.
    """
    held, free = _locks(installation.settings.workers_dir, own_id)
    for worker_id in free:
        stop_process(installation.database, worker_id)
    within_seconds = installation.settings.worker_takeover_seconds
    with installation.database.reading() as session:
        reported = {process.id for process in living_processes(session, WORKER, within_seconds)}
    return (reported - free) | held | {own_id}


def _locks(workers_dir: Path, own_id: str) -> tuple[set[str], set[str]]:
    """Return the other workers of this machine by whether their lock is held or free; free files are removed."""
    held, free = set(), set()
    # Only this machine's: whether a lock is visible over a network file system depends on how it is mounted.
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
