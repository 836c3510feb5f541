"""A real `akin serve` in a process of its own, asked over sockets that keep to no protocol but what a test wants."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-tests-3f9c1d"
_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def told(self) -> tuple[int, str]:
        """Status and stable code of an error, which has to be a whole problem document."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        problem = self.json
        assert problem["status"] == self.status
        assert problem["request_id"] == self.headers["x-request-id"]
        return self.status, problem["code"]


class Line:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS)

    def send_head(self, path: str, *, method: str = "POST", **headers: str) -> None:
        """Send the head of a request; `content_type="x"` is the header Content-Type."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(content)

    def send_chunk(self, content: bytes) -> None:
        """Send bytes as a chunk of a chunked body."""
        self.send(b"%x\r\n%s\r\n" % (len(content), content))

    def answer(self) -> Answer:
        """Wait for the answer; raises ConnectionError for none."""
        response = http.client.HTTPResponse(self._socket)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())

    def is_closed_within(self, seconds: float) -> bool:
        """Say whether the server closes the connection."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        """Go away."""
        self._socket.close()


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that runs."""

    port: int
    pid: int
    log: Path

    @contextmanager
    def line(self) -> Iterator[Line]:
        """Give a connection for as long as the block runs."""
        line = Line(self.port)
        try:
            yield line
        finally:
            line.close()

    def ask(self, path: str, body: bytes = b"", *, method: str = "POST", **headers: str) -> Answer:
        """Send a whole request and return its answer."""
        with self.line() as line:
            line.send_head(path, method=method, content_length=str(len(body)), **headers)
            line.send(body)
            return line.answer()

    def get(self, path: str, **headers: str) -> Answer:
        """Ask with GET."""
        return self.ask(path, b"", method="GET", **headers)

    def peak_bytes(self) -> int:
        """Return the most memory that the process had since `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return 1024 * int(found[1])

    def forget_peak(self) -> int:
        """Begin anew to measure the peak; return the memory that the process has now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.peak_bytes()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's lines of an event."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == name]


@contextmanager
def serving(home: Path, log: Path, **variables: str) -> Iterator[ServerProcess]:
    """Run a server on a home folder until the block ends, and then end it; `KEY` is an admin key of it."""
    with started(home, log, **variables) as (server, process):
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-3000:]


@contextmanager
def started(home: Path, log: Path, **variables: str) -> Iterator[tuple[ServerProcess, subprocess.Popen[bytes]]]:
    """Run a server on a home folder; the block ends it as it wants, and at its end nothing of it is left."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AKIN_")}
    environment |= {"AKIN_HOME": str(home), "AKIN_ADMIN_KEY": KEY, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        server = ServerProcess(_port_of(process, log), process.pid, log)
        _wait_until_ready(server)
        yield server, process
    finally:
        process.kill()
        process.wait()


def _port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", log.read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(log.read_text()[-3000:])


def _wait_until_ready(server: ServerProcess) -> None:
    until = time.monotonic() + _START_SECONDS
    while server.get("/readyz").status != 200:
        assert time.monotonic() < until, server.log.read_text()[-3000:]
        time.sleep(0.05)
