"""The lock of a run's folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import InvalidRun
from training.running.distributed import ProcessGroup

LOCK = ".lock"


@contextmanager
def only_run_in(out: Path, group: ProcessGroup) -> Iterator[None]:
    """Hold the lock of a run's folder, so that two processes never write to the same run."""
    if not group.is_first:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRun(f"the folder {out} cannot be created: {error.strerror}; choose another with --out") from error
    with (out / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRun(f"another process trains into {out}; wait for it, or choose another folder") from None
        yield
