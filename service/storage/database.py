"""The database as all rooms use it: short transactions, and one error for all reasons why it does not answer."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import overload

import structlog
from sqlalchemy import DateTime, Engine, event, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import ServiceError
from service.storage.connections import READING, describe_failure, make_engine, sqlstate_of
from service.storage.errors import DatabaseFull, DatabaseUnavailable
from service.storage.migration import current_revision, ensure_current
from service.storage.postgresql import LONGEST_ATTEMPT_SECONDS, ServerSilent
from service.storage.tables.catalogue import ChangeCounter
from service.storage.tables.table import Table

_POSTGRESQL = "postgresql"
_READ_ONLY, _DISK_FULL = "25006", "53100"
_SECONDS_BETWEEN_ATTEMPTS = 1.0

log = structlog.get_logger(__name__)


class Database:
    """One database, migrated to the current version, with short transactions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._outage = _Outage()
        self._is_closed = False
        event.listen(engine, "checkin", self._close_if_disposed)
        options: dict[str, object] = {READING: True}
        if engine.dialect.name == _POSTGRESQL:
            # By default, each statement of a transaction would see what was committed meanwhile.
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reading_engine = engine.execution_options(**options)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that commits at the end of the block and rolls back on any error."""
        with self._session(self._engine) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that only reads: it sees one consistent state, and writers do not wait for it."""
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
                # Later sessions fail fast while the database is unavailable; one that is merely busy does not count.
                is_away = isinstance(getattr(error, "orig", None), ServerSilent) or not (
                    is_connected or isinstance(error, PoolTimeout)
                )
                if is_away and engine.dialect.name == _POSTGRESQL:
                    self._outage.begin(known.reason)
                log.warning("database_unavailable", reason=known.reason)
            raise known from error

    def _known_error(self, error: DBAPIError | PoolTimeout) -> ServiceError | None:
        """Return the error to raise instead; None for an error in our own statement."""
        if isinstance(error, DBAPIError):
            state = sqlstate_of(error)
            if state == _DISK_FULL or getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                return DatabaseFull(describe_failure(self._engine, error))
            # A server that lost its disk, or became read-only after a failover, is unavailable too.
            if not (isinstance(error, OperationalError) or error.connection_invalidated or state == _READ_ONLY):
                return None
        return DatabaseUnavailable(describe_failure(self._engine, error))

    def revision(self) -> str | None:
        """Return the revision of the database's tables."""
        with self.reading() as session:
            return current_revision(session.connection())

    def close(self) -> None:
        """Close all connections; one that a thread still uses is closed when it is returned."""
        self._is_closed = True
        self._engine.dispose()

    def _close_if_disposed(self, _connection: object, record: ConnectionPoolEntry) -> None:
        # It was returned to a pool that is no longer used.
        if self._is_closed:
            record.invalidate()


class _Outage:
    """Remembers that the database is away: one caller at a time tries it again, all others fail at once.

    Otherwise each request would wait several seconds for a connection, and soon all threads would.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._try_at = 0.0
        self._since = 0.0

    def refuse(self) -> None:
        """Raise DatabaseUnavailable while the database is away, unless it is time to try it again."""
        if self.reason is None:
            return
        with self._lock:
            moment = time.monotonic()
            if self.reason is not None and moment < self._try_at:
                raise DatabaseUnavailable(self.reason)
            self._try_at = moment + LONGEST_ATTEMPT_SECONDS

    def begin(self, reason: str) -> None:
        """Remember that the database is away."""
        with self._lock:
            moment = time.monotonic()
            if self.reason is None:
                self._since = moment
            self.reason = reason
            self._try_at = moment + _SECONDS_BETWEEN_ATTEMPTS

    def end(self) -> None:
        """Remember that the database answers."""
        if self.reason is None:
            return
        with self._lock:
            if self.reason is not None:
                log.info("database_is_back", seconds=round(time.monotonic() - self._since, 1))
            self.reason = None


def open_database(address: str, *, may_migrate: bool = True) -> Database:
    """Connect, and migrate the tables to the current revision if `may_migrate`.

    Raises InvalidSetting for an invalid address, DatabaseUnavailable if the database does not answer, and
    DatabaseVersionError for tables that are older and may not be migrated, or newer.
    """
    engine = make_engine(address)
    try:
        ensure_current(engine, may_migrate=may_migrate)
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
    """Return the current time in UTC, as times are stored."""
    return datetime.now(UTC)


def insert_missing(session: Session, table: type[Table], rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows except those whose key exists, even if a concurrent transaction has just written it."""
    if not rows:
        return
    is_postgresql = session.get_bind().dialect.name == _POSTGRESQL
    insert = postgresql.insert(table) if is_postgresql else sqlite.insert(table)
    session.execute(insert.on_conflict_do_nothing(), rows)


def database_time(session: Session) -> datetime:
    """Return the time of the clock that all processes share: the server's, or with SQLite this machine's."""
    if session.get_bind().dialect.name == _POSTGRESQL:
        return session.scalars(select(func.clock_timestamp(type_=DateTime(timezone=True)))).one()
    return now()


@overload
def in_utc(moment: datetime) -> datetime: ...
@overload
def in_utc(moment: datetime | None) -> datetime | None: ...
def in_utc(moment: datetime | None) -> datetime | None:
    """Return a stored time with its zone, which SQLite drops; None for None."""
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
