"""Connections, transactions and migrations."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import DatabaseUnavailable, DatabaseVersionError, InvalidSetting
from service.tables import ChangeCounter

_MIGRATIONS = Path(__file__).parent / "migrations"
# A writer of a large batch may hold the lock of SQLite for a moment; others wait that long before they give up.
_BUSY_SECONDS = 30
_READING = "akin_reading"  # execution option of connections that only read


class Database:
    """One database, migrated to the current version, with short transactions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        options: dict[str, object] = {_READING: True}
        if engine.dialect.name == "postgresql":
            # Its default shows each statement of a transaction what was committed meanwhile.
            options["isolation_level"] = "REPEATABLE READ"
        self._reading_engine = engine.execution_options(**options)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that commits at the end of the block, or rolls back on any error."""
        with self._session(self._engine) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that only reads: one consistent view, and no lock that a writer waits for."""
        with self._session(self._reading_engine) as session:
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except OperationalError as error:
            raise DatabaseUnavailable(_unavailable(self._engine, error)) from error

    def revision(self) -> str | None:
        """Return the revision of the database's tables."""
        with self._reading_engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def open_database(address: str) -> Database:
    """Connect, and bring the tables to the current version.

    Raises InvalidSetting for an address that makes no sense, DatabaseUnavailable when nothing answers,
    DatabaseVersionError when the database was written by a newer version of Akin.
    """
    engine = _connect(address)
    try:
        _migrate(engine)
    except DBAPIError as error:
        raise DatabaseUnavailable(_unavailable(engine, error)) from error
    return Database(engine)


def next_change_seqs(session: Session, count: int) -> range:
    """Take `count` change numbers; other writers wait until this transaction ends."""
    last = session.execute(
        update(ChangeCounter)
        .where(ChangeCounter.slot == 1)
        .values(value=ChangeCounter.value + count)
        .returning(ChangeCounter.value)
    ).scalar_one()
    return range(last - count + 1, last + 1)


def current_watermark(session: Session) -> int:
    """Return the number of the last change that this transaction sees."""
    counter = session.get(ChangeCounter, 1)
    assert counter is not None
    return counter.value


def now() -> datetime:
    """Return the time as it is stored."""
    return datetime.now(UTC)


def in_utc(moment: datetime) -> datetime:
    """Return a stored time with its zone, which SQLite forgets."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _connect(address: str) -> Engine:
    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise InvalidSetting(
            f"AKIN_DATABASE_URL needs a driver that is not installed ({error}); for PostgreSQL: "
            "pip install 'psycopg[binary]' and postgresql+psycopg://..."
        ) from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise InvalidSetting(f"AKIN_DATABASE_URL cannot be used: {error}") from error
    except OSError as error:
        raise DatabaseUnavailable(f"the folder of the database cannot be made: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # Transactions are begun by _begin, not by the driver.
    connection.isolation_level = None
    for pragma in (f"busy_timeout={_BUSY_SECONDS * 1000}", "journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail at once, not wait, when another wrote in between;
    # so whoever may write takes the lock at the start.
    reading = connection.get_execution_options().get(_READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _migrate(engine: Engine) -> None:
    """Upgrade to the newest revision, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    head = scripts.get_current_head()
    with engine.execution_options(**{_READING: True}).connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise DatabaseVersionError(
                f"the database has revision {current!r}, which this version of Akin does not know; it was written by "
                "a newer version: upgrade Akin, or set AKIN_DATABASE_URL or AKIN_HOME to another database"
            )
        if current != head:  # another process may have been faster
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _unavailable(engine: Engine, error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error)
    hint = "; may this user write to its folder?" if "unable to open" in reason or "readonly" in reason else ""
    return f"the database at {engine.url.render_as_string(hide_password=True)} cannot be used: {reason}{hint}"
