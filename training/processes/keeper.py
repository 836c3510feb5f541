"""Run a command on behalf of a worker so that none of its processes outlives the worker.

    python -m training.processes.keeper --grace SECONDS -- COMMAND…

The worker holds the other end of the keeper's standard input and writes nothing to it. When the worker ends for any
reason, the keeper reads the end of file, sends SIGTERM to COMMAND's process group, waits for the grace period and
kills what is left. SIGTERM, SIGINT or SIGHUP to the keeper does the same; another signal at least a second later kills
at once. The exit status is COMMAND's, 128 + the signal number if a signal killed it, and 127 or 126 if COMMAND cannot
be started.

If the keeper itself is killed, Linux sends SIGTERM to COMMAND. Only the standard library is imported, so the keeper
starts fast and takes little memory beside the training.
"""

import argparse
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from training.processes.parent_process import ParentGone, adopt_orphans, end_with_parent

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PROC = Path("/proc")
# Killed processes end at once, except one blocked in the kernel by a failed disk.
_REAP_SECONDS = 5.0
_POLL_SECONDS = 0.02
# A service manager and a shell may both send a signal: together they are one request.
_SAME_REQUEST_SECONDS = 1.0
_READ_BYTES = 4096


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.processes.keeper", description="Run a command that ends with its caller."
    )
    parser.add_argument("--grace", type=float, default=60.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command or not 0 <= options.grace < float("inf"):
        parser.error("give a command after --, and --grace SECONDS of at least 0")
    try:
        return _Keeper(options.grace).run(command)
    except FileNotFoundError as error:
        sys.stderr.write(f"{command[0]} does not exist: {error}\n")
        return 127
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error}\n")
        return 126


class _Keeper:
    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._is_stop_requested = False
        self._requested_at: float | None = None  # when a signal first requested a stop
        self._deadline: float | None = None  # when what still runs is killed
        # Signals, including SIGCHLD, wake `select` through this pipe.
        self._wakeup, wakeup_end = os.pipe()
        for end in (self._wakeup, wakeup_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)

    def run(self, command: Sequence[str]) -> int:
        """Start the command, and return its status when it and all its descendants have ended."""
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in _STOP_SIGNALS:
            signal.signal(number, self._note_signal)
        # Orphaned descendants become our children: the processes of torchrun leave the process group.
        adopt_orphans()
        child = _start(command)
        try:
            self._wait(child)
        finally:
            self._end_the_rest(child.pid)
        status = child.returncode
        return 128 - status if status < 0 else status

    def _note_signal(self, _number: int, _frame: FrameType | None) -> None:
        moment = time.monotonic()
        if self._requested_at is None:
            self._requested_at = moment
        elif moment - self._requested_at > _SAME_REQUEST_SECONDS:
            # A second request: do not wait for a state to be saved.
            self._deadline = moment
        self._is_stop_requested = True

    def _wait(self, child: subprocess.Popen[bytes]) -> None:
        """Return when the child has ended by itself, on request or by a kill."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup, selectors.EVENT_READ)
            is_watching = _watch_input(selector)
            while child.poll() is None:
                seconds = None if self._deadline is None else self._deadline - time.monotonic()
                if seconds is not None and seconds <= 0:
                    _signal_group(child.pid, signal.SIGKILL)
                    child.wait()
                    return
                ready = {key.fileobj for key, _ in selector.select(seconds)}
                if self._wakeup in ready:
                    _drain(self._wakeup)
                if is_watching and sys.stdin in ready and not os.read(sys.stdin.fileno(), _READ_BYTES):
                    selector.unregister(sys.stdin)
                    is_watching = False
                    self._is_stop_requested = True
                # Sent once only: a second SIGTERM would end a training before it has saved its state.
                if self._is_stop_requested and self._deadline is None:
                    _signal_group(child.pid, signal.SIGTERM)
                    self._deadline = time.monotonic() + self._grace_seconds

    def _end_the_rest(self, group: int) -> None:
        """End the descendants that the child left behind: SIGTERM first, SIGKILL after the grace period.

        The processes of a killed torchrun, for example, have a state to save.
        """
        deadline = self._deadline or time.monotonic() + self._grace_seconds
        terminated: set[int] = set()
        while (left := _descendants(os.getpid())) and time.monotonic() < deadline:
            for process in left:
                if process not in terminated:
                    _signal(process, signal.SIGTERM)
            terminated.update(left)
            _reap()
            time.sleep(_POLL_SECONDS)
        _signal_group(group, signal.SIGKILL)
        deadline = time.monotonic() + _REAP_SECONDS
        while (left := _descendants(os.getpid())) and time.monotonic() < deadline:
            for process in left:
                _signal(process, signal.SIGKILL)
            _reap()
            time.sleep(_POLL_SECONDS)


def _watch_input(selector: selectors.BaseSelector) -> bool:
    try:
        selector.register(sys.stdin, selectors.EVENT_READ)
    except (PermissionError, ValueError):
        # A plain file or a closed input cannot be waited for and is not held by a worker.
        return False
    return True


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    keeper = os.getpid()

    def prepare() -> None:
        # The keeper's handlers remain until exec and would swallow a signal before it.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        try:
            end_with_parent(keeper)
        except ParentGone:
            os._exit(128 + signal.SIGTERM)

    # `preexec_fn` is safe since this process has a single thread.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=prepare)  # noqa: S603


def _drain(descriptor: int) -> None:
    with suppress(BlockingIOError):
        while os.read(descriptor, _READ_BYTES):
            pass


def _signal_group(group: int, number: signal.Signals) -> None:
    # The group has ended, or (macOS) consists of zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


def _reap() -> None:
    """Reap every child that has ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _descendants(ancestor: int) -> list[int]:
    """Return the descendants of a process; empty without /proc."""
    parents: dict[int, int] = {}
    for folder in _PROC.iterdir() if _PROC.is_dir() else ():
        if folder.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                # The process name, in parentheses, may contain spaces and parentheses.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
