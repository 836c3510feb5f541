"""How connections to each of the two databases are made and pooled."""

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
# The connections of one process; a caller that finds none free waits, and then gets an error.
POOL_SIZE, POOL_OVERFLOW = 5, 5
POOL_SECONDS = 5.0
# How long a writer waits for the lock of SQLite, which another holds while it writes a large batch.
_BUSY_SECONDS = 30


def make_engine(
    address: str,
    *,
    pool_size: int = POOL_SIZE,
    max_overflow: int = POOL_OVERFLOW,
    session: Mapping[str, str] = SESSION,
) -> Engine:
    """Return an engine for an address, without connecting. `session` holds settings of each PostgreSQL session.

    Raises InvalidSetting for an invalid address. Connecting raises DatabaseUnavailable if the folder of the SQLite
    file cannot be created, and otherwise the errors of SQLAlchemy.
    """
    try:
        url = make_url(address)
        if url.get_backend_name() in ("postgresql", "postgres"):
            return _postgresql(url, pool_size, max_overflow, session)
        if url.get_backend_name() == "sqlite":
            return _sqlite(url)
        raise InvalidSetting("AKIN_DATABASE_URL cannot be used: it begins with neither postgresql:// nor sqlite:///")
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        # The message leaves out the address, which may contain a password.
        raise InvalidSetting(
            "AKIN_DATABASE_URL cannot be used: it is not an address such as postgresql://user:password@host:5432/akin"
        ) from error


def describe_failure(engine: Engine, error: Exception) -> str:
    """Describe what is wrong with a database for logs and terminals: with host and user, without passwords."""
    if isinstance(error, PoolTimeout):
        return f"all connections of this process to the database are in use: {error}"
    reason = str(getattr(error, "orig", None) or error).strip()
    hint = (
        "; check that this user may write to its folder" if "unable to open" in reason or "readonly" in reason else ""
    )
    address = shown_address(engine.url.render_as_string(hide_password=False))  # hides passwords in the query too
    return f"the database at {address} cannot be used: {reason}{hint}"


def sqlstate_of(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of an error of PostgreSQL, None for other errors."""
    return getattr(error.orig, "sqlstate", None)


def _postgresql(url: URL, pool_size: int, max_overflow: int, session: Mapping[str, str]) -> Engine:
    if not url.database:
        raise InvalidSetting("AKIN_DATABASE_URL cannot be used: it names no database; write postgresql://.../akin")
    # Part of an unescaped password is parsed as host or database, whose name errors of the server repeat.
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
    event.listen(engine, "connect", partial(_configure_session, session))
    return engine


def _connect(
    _dialect: Dialect, _record: ConnectionPoolEntry, arguments: tuple[Any, ...], options: dict[str, Any]
) -> DBAPIConnection:
    # psycopg's type does not quite match the protocol that SQLAlchemy has for all drivers.
    return cast(DBAPIConnection, BoundedConnection.connect(*arguments, **options))


def _configure_session(settings: Mapping[str, str], connection: BoundedConnection, _: ConnectionPoolEntry) -> None:
    # Not with libpq's `options`, which connection poolers refuse.
    for name, value in settings.items():
        connection.execute("SELECT set_config(%s, %s, false)", (name, value))
    connection.commit()  # a rollback would undo the settings


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
        raise DatabaseUnavailable(f"the folder of the database cannot be created: {error}") from error


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # _begin starts transactions instead of the driver.
    connection.isolation_level = None
    for pragma in (f"busy_timeout={_BUSY_SECONDS * 1000}", "journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails, without waiting, if another has written in between. So
    # transactions that may write take the lock at the start.
    reading = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
