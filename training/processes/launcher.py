"""End a process that torchrun started when torchrun ends, however it ends.

torchrun terminates its processes itself, except when it is killed with SIGKILL (by the system for lack of memory, for
example): then they would train on, or wait for each other, as orphans. Only the standard library is imported.
"""

import os
import signal
import socket
import threading
import time

from training.processes.parent_process import ParentGone, request_signal_at_death

# How long an orphaned process may take to save its state, as under a worker.
_GRACE_SECONDS = 60.0
# How long a store that does not answer is tried: torchrun opens it before it starts a process.
_STORE_SECONDS = 10.0
_POLL_SECONDS = 1.0


def is_launched() -> bool:
    """Tell whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_launcher() -> None:
    """Request SIGTERM for when torchrun ends (Linux); does nothing in other processes.

    A torchrun that was killed before is noticed by `require_launcher` only.
    """
    if is_launched():
        request_signal_at_death()


def require_launcher(seconds: float = _STORE_SECONDS) -> None:
    """Raise ParentGone if torchrun's store, through which its processes find each other, does not answer in time.

    Without this check, a process whose torchrun was killed while it started would wait for the store for a day.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return  # then the first process has the store, and starts it later
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(address, timeout=seconds).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ParentGone(f"the torchrun that started this process has ended: {error}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def watch_launcher(grace_seconds: float = _GRACE_SECONDS) -> None:
    """End this process at the latest `grace_seconds` after torchrun, even if it waits for another process.

    Sends SIGTERM first, where the system did not. Does nothing in processes that torchrun did not start.
    """
    if is_launched():
        end_with_launcher()
        arguments = (os.getppid(), grace_seconds)
        threading.Thread(target=_watch, args=arguments, name="launcher-watch", daemon=True).start()


def _watch(launcher: int, grace_seconds: float) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    # A second SIGTERM within a second is the same request; see `training.cli`.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os._exit(128 + signal.SIGTERM)
