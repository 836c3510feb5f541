"""How connections to the database are made and kept, for each of the two databases."""

import sqlite3
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import InvalidSetting
from service.storage.address import shown_address
from service.storage.errors import DatabaseUnavailable
from service.storage.postgresql import ARGUMENTS, SESSION, BoundedConnection

READING = "akin_reading"  # execution option of connections that only read
# One process has at most so many connections; who finds none free waits, and then is told to ask again.
POOL_SIZE, POOL_OVERFLOW = 5, 5
POOL_SECONDS = 5.0
# A writer of a large batch may hold the lock of SQLite for a moment; others wait that long before they give up.
_BUSY_SECONDS = 30


def make_engine(
    address: str,
    *,
    pool_size: int = POOL_SIZE,
    max_overflow: int = POOL_OVERFLOW,
    session: Mapping[str, str] = SESSION,
    uses_autocommit: bool = False,
) -> Engine:
    """Return an engine for an address; nothing is connected yet. `session`: settings of each session of PostgreSQL.

    Raises InvalidSetting for an address that makes no sense. Connecting raises DatabaseUnavailable where the folder of
    SQLite cannot be made, and otherwise what SQLAlchemy raises.
    """
    try:
        url = make_url(address)
        if url.get_backend_name() in ("postgresql", "postgres"):
            engine = _postgresql(url, pool_size, max_overflow)
            event.listen(engine, "connect", partial(_prepare_postgresql, session, uses_autocommit))
            return engine
        if url.get_backend_name() == "sqlite":
            return _sqlite(url)
        raise InvalidSetting("AKIN_DATABASE_URL cannot be used: it is neither postgresql:// nor sqlite:///")
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        # Not with the address, which may have a password.
        raise InvalidSetting(
            "AKIN_DATABASE_URL cannot be used: it is no address such as postgresql://user:password@host:5432/akin"
        ) from error


def describe_failure(engine: Engine, error: Exception) -> str:
    """Say what is wrong with a database, for logs and terminals: it names host and user, and no password."""
    if isinstance(error, PoolTimeout):
        return f"all connections of this process to the database are in use: {error}"
    reason = str(getattr(error, "orig", None) or error).strip()
    hint = "; may this user write to its folder?" if "unable to open" in reason or "readonly" in reason else ""
    address = shown_address(engine.url.render_as_string(hide_password=False))  # hidden by it, those of the query stay
    return f"the database at {address} cannot be used: {reason}{hint}"


def sqlstate_of(error: DBAPIError) -> str | None:
    """Return the code of an error of PostgreSQL."""
    return getattr(error.orig, "sqlstate", None)


def _postgresql(url: URL, pool_size: int, max_overflow: int) -> Engine:
    if not url.database:
        raise InvalidSetting("AKIN_DATABASE_URL cannot be used: it names no database; write postgresql://.../akin")
    # Read so, half of the password is taken for a host or a database, whose name the server's errors repeat.
    if "@" in (url.host or "") or (url.username is None and "@" in url.database):
        raise InvalidSetting(
            "AKIN_DATABASE_URL cannot be used: in its user and password write %40 for @, %3A for : and %2F for /"
        )
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={name: value for name, value in ARGUMENTS.items() if name not in url.query},
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=POOL_SECONDS,
    )
    event.listen(engine, "do_connect", _connect)
    return engine


def _connect(
    _dialect: Dialect, _record: ConnectionPoolEntry, arguments: tuple[Any, ...], options: dict[str, Any]
) -> DBAPIConnection:
    # The protocol of drivers in general, which psycopg's types do not quite name.
    return cast(DBAPIConnection, BoundedConnection.connect(*arguments, **options))


def _prepare_postgresql(
    settings: Mapping[str, str], uses_autocommit: bool, connection: BoundedConnection, _: ConnectionPoolEntry
) -> None:
    connection.uses_autocommit = uses_autocommit
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    connection.commit()  # rolled back, it would be forgotten


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, pool_pre_ping=True)
    event.listen(engine, "do_connect", partial(_make_folder, url.database))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


def _make_folder(path: str | None, *_: object) -> None:
    if not path or path == ":memory:":
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(f"the folder of the database cannot be made: {error}") from error


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # Transactions are begun by _begin, not by the driver.
    connection.isolation_level = None
    for pragma in (f"busy_timeout={_BUSY_SECONDS * 1000}", "journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail at once, not wait, when another wrote in between;
    # so whoever may write takes the lock at the start.
    reading = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
