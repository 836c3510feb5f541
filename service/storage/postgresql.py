"""Connections to PostgreSQL that a server which is away, or hangs, holds up for a bounded time only.

A server that is gone closes its connections, and the kernel notices a machine that is gone. Nobody notices a server
that stands still: its kernel goes on confirming what arrives. So whoever waits for an answer asks now and then, over a
connection of its own, whether the server answers anybody.
"""

import time
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.errors import ConnectionTimeout
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

CONNECT_SECONDS = 5
# Where the address says otherwise, the address counts.
ARGUMENTS: dict[str, str | int] = {
    "application_name": "akin",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}
# What the server is to see to.
SESSION = {
    "lock_timeout": "30s",
    # A process that stands still, or a machine that is gone, must not hold a lock for ever.
    "idle_in_transaction_session_timeout": "5min",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
# A pool asks whether a connection is alive before it hands it out: that takes no thought.
_PING_SECONDS = 2.0
_SILENCE_SECONDS = 5.0


class ServerSilent(psycopg.OperationalError):
    """The server takes connections and says nothing."""


class BoundedConnection(psycopg.Connection[TupleRow]):
    """A connection that gives up a server which has stopped answering; a statement may take as long as it needs."""

    # Whether whoever uses it asks outside transactions as well, and not only the pool.
    uses_autocommit = False

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for the server as psycopg does; raises ServerSilent, and the connection is closed then."""
        return super().wait(self._heard(gen), *args, **kwargs)

    def _heard(self, gen: PQGen[RV]) -> PQGen[RV]:
        heard_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard_at = time.monotonic()
                elif self._is_given_up(time.monotonic() - heard_at):
                    self.pgconn.finish()
                    raise ServerSilent("the server does not answer")
                elif time.monotonic() - heard_at >= _SILENCE_SECONDS:
                    heard_at = time.monotonic()  # it works on something long
                wanted = gen.send(ready)
        except StopIteration as done:
            result: RV = done.value
            return result

    def _is_given_up(self, silent_seconds: float) -> bool:
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return False  # nothing was asked: it listens for notifications
        if self.autocommit and not self.uses_autocommit:
            return silent_seconds >= _PING_SECONDS
        return silent_seconds >= _SILENCE_SECONDS and not self._answers_others()

    def _answers_others(self) -> bool:
        """Say whether the server lets in a new connection; only one that is silent then too is given up."""
        options = {o.keyword.decode(): o.val.decode() for o in self.pgconn.info if o.val}
        try:
            psycopg.connect(make_conninfo(**options)).close()
        except ConnectionTimeout:
            return False
        except psycopg.Error:
            return True  # a refusal is an answer
        return True
