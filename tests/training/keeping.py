"""Start a keeper as a worker does, and inspect running processes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# An upper bound for a busy machine; nothing waits this long where all works.
WAIT_SECONDS = 120.0
# A worker: holds the keeper's input, prints the keeper's process id and waits to be killed.
WORKER = """
import subprocess, sys, time
keeper = subprocess.Popen([sys.executable, "-m", "training.processes.keeper", *sys.argv[1:]], stdin=subprocess.PIPE)
print(keeper.pid, flush=True)
time.sleep(600)
"""


class Starter:
    """Starts keepers, and kills what is left of them at the end."""

    def __init__(self):
        self._started = []

    def keeper(self, *command, grace=20.0, **options):
        """Start a keeper whose worker is this process."""
        arguments = [sys.executable, "-m", "training.processes.keeper", "--grace", str(grace), "--", *map(str, command)]
        return self._start(arguments, stdin=subprocess.PIPE, **options)

    def worker(self, *command, grace=20.0):
        """Start a worker that starts a keeper; returns the worker and the keeper's process id."""
        arguments = [sys.executable, "-c", WORKER, "--grace", str(grace), "--", *map(str, command)]
        worker = self._start(arguments, stdout=subprocess.PIPE)
        return worker, int(worker.stdout.readline())

    def close(self):
        """Kill what still runs and close every pipe."""
        for process in self._started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    # Input for a process that has ended is lost.
                    with suppress(BrokenPipeError):
                        pipe.close()

    def _start(self, arguments, **options):
        process = subprocess.Popen(arguments, cwd=ROOT, text=True, **options)
        self._started.append(process)
        return process


def is_running(process):
    """Tell whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_true, seconds=WAIT_SECONDS):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def pid_in(path):
    """Wait for a process to write its id and return it."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def processes_with(text):
    """Return the running processes whose command line contains a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
                if text in command and is_running(folder.name):
                    found.append(int(folder.name))
    return found


def kill(process):
    if is_running(process):
        os.kill(process, signal.SIGKILL)
