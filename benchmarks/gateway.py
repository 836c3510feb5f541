"""The shipped gateway in front of real servers, as local processes, for tests/gateway and rolling_restart.py."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import httpx

from service.web.server import listen

KEY = "behind-a-gateway-0123456789"
DEPLOY = Path(__file__).parents[1] / "deploy" / "nginx"
# Far above the rates of a test; the limits have separate tests.
WITHOUT_RATES = {
    **{f"GATEWAY_{name}_RATE": "100000r/s" for name in ("ADDRESS", "KEY", "PAGE")},
    **{f"GATEWAY_{name}_BURST": "100000" for name in ("ADDRESS", "KEY", "PAGE")},
    "GATEWAY_CONNECTIONS": "1000",
}
# Loading certificates takes a hundred times as long as creating a client, and none are used here.
ask = partial(httpx.request, verify=False)
_START_SECONDS = 120.0
_ESTABLISHED = "01"


def missing_programs() -> str:
    """Return the programs that the gateway needs and this machine lacks, as text; empty if none."""
    needed = {"nginx": "nginx", "envsubst": "gettext-base"}
    missing = [f"{name} (Debian package {package})" for name, package in needed.items() if find_program(name) is None]
    return " and ".join(missing)


def find_program(program: str) -> str | None:
    """Return the path of a program, or None."""
    # Directories of system programs are often missing from the PATH of users other than root.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with listen("127.0.0.1", 0) as free:
        return int(free.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a process listens on the port; raises RuntimeError with its log if it ends or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"no process listens on port {port}: {log.read_text()[-4000:]}")


class Replica:
    """One `akin serve` process, which can be stopped, killed and restarted on the same port."""

    def __init__(self, home: Path, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.log = log
        self._settings = {
            "AKIN_HOME": str(home),
            "AKIN_ADMIN_KEY": KEY,
            "AKIN_PUBLIC_SEARCH": "true",
            "AKIN_TRUSTED_PROXIES": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self.process = self._launch()

    @property
    def address(self) -> str:
        """URL of the server without the gateway."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Wait until the server is ready to answer searches."""
        wait_for_port(self.port, self.process, self.log)
        deadline = time.monotonic() + _START_SECONDS
        while ask("GET", f"{self.address}/readyz", timeout=60).status_code != 200:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.address} did not become ready: {self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Terminate the process gracefully (SIGTERM); return its exit status."""
        self.send(signal.SIGTERM)
        return self.process.wait(timeout=90)

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        self.process.kill()
        self.process.wait(timeout=30)

    def start_again(self) -> None:
        """Start the server again on the same port and home, and wait until it is ready."""
        self.process = self._launch()
        self.wait_until_ready()

    def lines(self, event: str = "request") -> list[dict[str, object]]:
        """Return the log entries of an event."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def line_of(self, request_id: str) -> dict[str, object] | None:
        """Return the log entry of a request, which is written shortly after the response; None if there is none."""
        return next((line for line in self.lines() if line["request_id"] == request_id), None)

    def peer_ports(self) -> set[int]:
        """Return the remote ports of established connections."""
        ports = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            local, remote, state = line.split()[1:4]
            if int(local.split(":")[1], 16) == self.port and state == _ESTABLISHED:
                ports.add(int(remote.split(":")[1], 16))
        return ports

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AKIN_")}
        command = [sys.executable, "-m", "service.cli.main", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env={**environment, **self._settings}, stdout=subprocess.DEVNULL, stderr=log
            )


class Gateway:
    """A running nginx with the shipped configuration."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.log = log
        self.process = process

    @property
    def address(self) -> str:
        """URL of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, object]]:
        """Return the entries of the access log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def line_of(self, request_id: str) -> dict[str, object]:
        """Return the access log entry of a request, waiting for it; raises AssertionError if there is none."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in self.lines():
                if line["request_id"] == request_id:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"the gateway did not log request {request_id}: {self.log.read_text()[-4000:]}")


def upstream_file(ports: Sequence[int], *, backup_ports: Sequence[int] = ()) -> str:
    """Return the shipped upstream.conf with local servers instead of those resolved by Docker's DNS."""
    servers = [f"server 127.0.0.1:{port} max_fails=0;" for port in ports]
    servers += [f"server 127.0.0.1:{port} max_fails=0 backup;" for port in backup_ports]
    shipped = (DEPLOY / "upstream.conf").read_text()
    text, num_groups = re.subn(r"server api:8000 [^;]*;", "\n    ".join(servers), shipped)
    text, num_resolvers = re.subn(r"resolver 127\.0\.0\.11 [^;]*;\n", "\n", text)
    assert num_groups == num_resolvers == 2
    return text


def render(values: Mapping[str, str]) -> str:
    """Return the output of `deploy/nginx/render.sh` with these variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AKIN_", "GATEWAY_"))}
    command = ["sh", str(DEPLOY / "render.sh")]
    return subprocess.run(command, env={**inherited, **values}, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def gateway_before(
    upstream: str, files: Mapping[str, str] = MappingProxyType({}), /, **values: str
) -> Iterator[Gateway]:
    """Run nginx with the shipped configuration and an upstream file, as a user who can write to one directory only.

    `files` maps names below GATEWAY_CONF to additional files, which an operator would provide.
    """
    nginx = find_program("nginx")
    assert nginx is not None
    # Outside the directories of pytest, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    try:
        (folder / "upstream.conf").write_text(upstream)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        (folder / "tmp").mkdir()
        log, port = folder / "log", free_port()
        log.touch()
        own = {"GATEWAY_LISTEN": f"127.0.0.1:{port}", "GATEWAY_CONF": str(folder), "GATEWAY_TMP": str(folder / "tmp")}
        (folder / "nginx.conf").write_text(render({"GATEWAY_WORKERS": "1", **own, **WITHOUT_RATES, **values}))
        # As root, nginx would change its user itself; here it runs with the rights that it has in a container.
        nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if nobody:
            folder.chmod(0o755)
            for path in (folder / "tmp", log):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [nginx, "-e", "stderr", "-c", str(folder / "nginx.conf")],
                stdout=output,
                stderr=output,
                user=nobody.pw_uid if nobody else None,
                group=nobody.pw_gid if nobody else None,
                extra_groups=[] if nobody else None,
            )
        try:
            wait_for_port(port, process, log)
            yield Gateway(port, log, process)
        finally:
            process.send_signal(signal.SIGQUIT if process.poll() is None else signal.SIGTERM)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(timeout=5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
