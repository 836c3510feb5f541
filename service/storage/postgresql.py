"""Connections to PostgreSQL that do not wait without end for a server that is gone or hangs.

A server that is gone closes its connections, and TCP keepalives detect a machine that is gone. Neither detects a
server that hangs, on a disk that does not answer or a paused machine: its kernel still acknowledges what is sent, and
the server's own timeouts hang with it. So a connection that waits for an answer asks every few seconds, by connecting
once more, whether the server answers anybody.
"""

import time
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.errors import ConnectionTimeout
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

CONNECT_SECONDS = 4
# A server that has been silent for this long is asked whether it answers anybody.
_SILENCE_SECONDS = 3.0
# A pooled connection is found silent, the server is asked, and a new connection is tried.
LONGEST_ATTEMPT_SECONDS = _SILENCE_SECONDS + 2 * CONNECT_SECONDS

# Arguments of libpq; those in the address have precedence.
ARGUMENTS: dict[str, str | int] = {
    "application_name": "akin",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}
# Settings of each session, which the server enforces.
SESSION = {
    "lock_timeout": "30s",
    # A process that hangs, or a machine that is gone, must not keep a lock.
    "idle_in_transaction_session_timeout": "5min",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


class ServerSilent(psycopg.OperationalError):
    """The server accepts connections but does not answer."""


class BoundedConnection(psycopg.Connection[TupleRow]):
    """A connection that gives up a server that hangs; a statement may take as long as it needs."""

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for the server as psycopg does; raises ServerSilent, and closes the connection, if it hangs."""
        return super().wait(self._watched(gen), *args, **kwargs)

    def _watched(self, gen: PQGen[RV]) -> PQGen[RV]:
        heard_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                # psycopg sends 0 every tenth of a second while nothing arrives.
                ready = yield wanted
                if ready:
                    heard_at = time.monotonic()
                elif self._is_waiting_for_answer() and time.monotonic() - heard_at >= _SILENCE_SECONDS:
                    if not self._is_server_answering():
                        self.pgconn.finish()
                        raise ServerSilent("the server does not answer")
                    heard_at = time.monotonic()  # it works on a long statement
                wanted = gen.send(ready)
        except StopIteration as done:
            result: RV = done.value
            return result

    def _is_waiting_for_answer(self) -> bool:
        # Otherwise it waits for notifications, which may never come.
        return self.pgconn.transaction_status == TransactionStatus.ACTIVE

    def _is_server_answering(self) -> bool:
        options = {option.keyword.decode(): option.val.decode() for option in self.pgconn.info if option.val}
        try:
            psycopg.connect(make_conninfo(**options)).close()
        except ConnectionTimeout:
            return False
        except psycopg.Error:
            return True  # a refused connection is an answer
        return True
