"""The database as all modules use it: short transactions, and one error for whatever keeps it from answering."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import overload

import structlog
from alembic.runtime.migration import MigrationContext
from sqlalchemy import DateTime, Engine, event, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import ServiceError
from service.storage.engine import READING, describe_failure, make_engine, sqlstate_of
from service.storage.errors import DatabaseFull, DatabaseUnavailable
from service.storage.migration import bring_up_to_date
from service.storage.postgresql import CONNECT_SECONDS, ServerSilent
from service.storage.tables.catalogue import ChangeCounter
from service.storage.tables.table import Table

_POSTGRESQL = "postgresql"
_READ_ONLY, _DISK_FULL = "25006", "53100"
_SECONDS_BETWEEN_QUESTIONS = 1.0
_LONGEST_QUESTION_SECONDS = 2.0 * CONNECT_SECONDS

log = structlog.get_logger(__name__)


class Database:
    """One database, migrated to the current version, with short transactions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outage = _Outage()
        self._is_closed = False
        event.listen(engine, "checkin", self._close_late)
        options: dict[str, object] = {READING: True}
        if engine.dialect.name == _POSTGRESQL:
            # Its default shows each statement of a transaction what was committed meanwhile.
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reading_engine = engine.execution_options(**options)

    @property
    def is_away(self) -> bool:
        """Whether the database did not answer when it was last asked; always False of SQLite."""
        return self._outage.reason is not None

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
        self._outage.refuse()
        is_connected = False
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                session.connection()
                is_connected = True
                self._outage.end()
                yield session
        except (DBAPIError, PoolTimeout) as error:
            known = self._known_error(error)
            if known is None:
                raise
            if isinstance(known, DatabaseUnavailable):
                # Away, and not only busy: others need not wait as long to hear of it.
                is_away = isinstance(getattr(error, "orig", None), ServerSilent) or not (
                    is_connected or isinstance(error, PoolTimeout)
                )
                if is_away and engine.dialect.name == _POSTGRESQL:
                    self._outage.begin(known.reason)
                log.warning("database_unavailable", reason=known.reason)
            raise known from error

    def _known_error(self, error: DBAPIError | PoolTimeout) -> ServiceError | None:
        """Return what the error means for whoever asked; None: a mistake of ours."""
        if isinstance(error, DBAPIError):
            state = sqlstate_of(error)
            if state == _DISK_FULL or getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                return DatabaseFull(describe_failure(self._engine, error))
            # A server that lost its disk, was promoted elsewhere, or was told to let nobody write is of no use either.
            if not (isinstance(error, OperationalError) or error.connection_invalidated or state == _READ_ONLY):
                return None
        return DatabaseUnavailable(describe_failure(self._engine, error))

    def revision(self) -> str | None:
        """Return the revision of the database's tables."""
        with self.reading() as session:
            return MigrationContext.configure(session.connection()).get_current_revision()

    def close(self) -> None:
        """Give all connections back; those that a thread still uses, when it is done."""
        self._is_closed = True
        self._engine.dispose()

    def _close_late(self, _connection: object, record: ConnectionPoolEntry) -> None:
        # It came back to a pool that nobody will ask again.
        if self._is_closed:
            record.invalidate()


class _Outage:
    """Keeps a database that is away from holding up everybody: one asks it again now and then, the others are told.

    Without it, each request would wait for a connection for seconds, and all threads would soon do nothing else.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._ask_at = 0.0
        self._since = 0.0

    def refuse(self) -> None:
        """Raise DatabaseUnavailable while the database is away, unless it is time to ask it again."""
        if self.reason is None:
            return
        with self._lock:
            moment = time.monotonic()
            if self.reason is not None and moment < self._ask_at:
                raise DatabaseUnavailable(self.reason)
            self._ask_at = moment + _LONGEST_QUESTION_SECONDS

    def begin(self, reason: str) -> None:
        """Note that it is away."""
        with self._lock:
            moment = time.monotonic()
            if self.reason is None:
                self._since = moment
            self.reason = reason
            self._ask_at = moment + _SECONDS_BETWEEN_QUESTIONS

    def end(self) -> None:
        """Note that it answers."""
        if self.reason is None:
            return
        with self._lock:
            if self.reason is not None:
                log.info("database_is_back", seconds=round(time.monotonic() - self._since, 1))
            self.reason = None


def open_database(address: str, *, may_migrate: bool = True) -> Database:
    """Connect, and bring the tables to the current version, if that is allowed.

    Raises InvalidSetting for an address that makes no sense, DatabaseUnavailable when nothing answers,
    DatabaseVersionError for a database of another version: one that may not be migrated, or a newer one.
    """
    engine = make_engine(address)
    try:
        bring_up_to_date(engine, may_migrate=may_migrate)
    except BaseException:
        engine.dispose()
        raise
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


def insert_missing(session: Session, table: type[Table], rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows, and leave out those whose key is there, though another transaction wrote it at this moment."""
    if not rows:
        return
    is_postgresql = session.get_bind().dialect.name == _POSTGRESQL
    insert = postgresql.insert(table) if is_postgresql else sqlite.insert(table)
    session.execute(insert.on_conflict_do_nothing(), rows)


def database_time(session: Session) -> datetime:
    """Return the time by the one clock that all processes share: the server's, or with SQLite this machine's."""
    if session.get_bind().dialect.name == _POSTGRESQL:
        return session.scalars(select(func.clock_timestamp(type_=DateTime(timezone=True)))).one()
    return now()


@overload
def in_utc(moment: datetime) -> datetime: ...
@overload
def in_utc(moment: datetime | None) -> datetime | None: ...
def in_utc(moment: datetime | None) -> datetime | None:
    """Return a stored time with its zone, which SQLite forgets; None for none."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
