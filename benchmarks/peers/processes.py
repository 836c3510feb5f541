"""Servers as processes: start, suspend while others are measured, measure CPU time, and stop with all descendants.

Descendants are found in /proc (Linux), since some frameworks put their workers into sessions of their own.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_STOP_SECONDS = 15
_POLL_SECONDS = 0.1
_LOG_TAIL = 3000
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Process:
    """A process; the start time distinguishes it from a later one with the same id."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class _Facts:
    parent: int
    state: str
    cpu_seconds: float


class Server:
    """A running server and its descendants."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self._process = process
        self._log = log
        self._family: set[_Process] = set()

    @classmethod
    def start(cls, name: str, command: Sequence[str], environment: Mapping[str, str], port: int, log: Path) -> Self:
        """Start a process whose output goes to the file `log`."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, process, port, log)

    def wait_until_ready(self, path: str, seconds: float) -> None:
        """Wait until GET `path` responds 200; raises SystemExit with the end of the log otherwise."""
        deadline = time.monotonic() + seconds
        while not self._is_ready(path):
            if self._process.poll() is not None:
                raise SystemExit(f"{self.name} exited with status {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name} is not ready after {seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def log_tail(self) -> str:
        """Return the end of the server's output."""
        return self._log.read_bytes()[-_LOG_TAIL:].decode(errors="replace")

    def suspend(self) -> None:
        """Stop all processes of the server, so that they use no CPU."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `suspend`."""
        self._signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server and its living descendants."""
        self._find_family()
        found = (_facts_of(process) for process in self._family)
        return sum(facts.cpu_seconds for facts in found if facts)

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """End the server: SIGTERM, and after `seconds` SIGKILL for whatever still runs."""
        # A suspended process handles SIGTERM only when it continues.
        self._signal(signal.SIGCONT)
        self._process.terminate()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (self._process.poll() is None or self._living_descendants()):
            time.sleep(_POLL_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _is_ready(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                return False

    def _signal(self, number: signal.Signals) -> None:
        self._find_family()
        for process in self._family:
            if _facts_of(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _living_descendants(self) -> list[_Process]:
        self._find_family()
        return [process for process in self._family if process.pid != self._process.pid and _facts_of(process)]

    def _find_family(self) -> None:
        """Add processes that were started meanwhile; known ones stay, since orphans have another parent."""
        processes = dict(_all_processes())
        known = {process.pid for process in self._family if process in processes} | {self._process.pid}
        grows = True
        while grows:
            born = {process.pid for process, facts in processes.items() if facts.parent in known} - known
            known |= born
            grows = bool(born)
        self._family |= {process for process in processes if process.pid in known}


@contextlib.contextmanager
def stopped_at_the_end() -> Iterator[list[Server]]:
    """Yield a list; the servers that the caller appends are stopped when the block ends."""
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:
        # Callbacks run for every server, also after one of them has failed.
        stack.callback(lambda: [stack.callback(server.stop) for server in servers])
        yield servers


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _all_processes() -> Iterator[tuple[_Process, _Facts]]:
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            found = _read_stat(int(entry.name))
            if found:
                yield found


def _facts_of(process: _Process) -> _Facts | None:
    """Return the facts of a process that still runs."""
    found = _read_stat(process.pid)
    return found[1] if found and found[0] == process else None


def _read_stat(pid: int) -> tuple[_Process, _Facts] | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc_pid_stat(5). The name in parentheses may contain spaces; fields from the third on follow it.
    fields = stat.rpartition(")")[2].split()
    state, parent = fields[0], int(fields[1])
    if state in "ZX":
        return None
    cpu_seconds = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return _Process(pid, int(fields[19])), _Facts(parent, state, cpu_seconds)
