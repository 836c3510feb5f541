"""The versions of the tables: which the database has, and how it gets to another one."""

import logging
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from service.storage.engine import READING, describe_failure, make_engine, sqlstate_of
from service.storage.errors import DatabaseUnavailable, DatabaseVersionError

EMPTY = "base"  # before the first revision: no tables

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number, the same in every process: who holds it changes the tables, and the others wait.
_ADVISORY_LOCK = 0x616B696E
_ADVISORY_SECONDS = 600
# Whoever waits for a table that is in use makes all others wait that come later.
_TABLE_LOCK_SECONDS = 30
_LOCK_NOT_AVAILABLE = "55P03"

# Not structlog, which commands leave as it is: it would print on standard output.
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Revision:
    """One version of the tables."""

    id: str
    title: str


@dataclass(frozen=True, slots=True)
class Versions:
    """The version that a database has, and all that this version of Akin knows, the oldest first."""

    current: str | None  # None: it has no tables
    known: tuple[Revision, ...]

    @property
    def newest(self) -> str:
        """The version that this version of Akin works with."""
        return self.known[-1].id

    @property
    def is_newer(self) -> bool:
        """Whether a newer version of Akin wrote the database."""
        return self.current is not None and self.current not in {revision.id for revision in self.known}

    @property
    def pending(self) -> tuple[Revision, ...]:
        """What is to be done to get to the newest, in order."""
        return () if self.is_newer else self.known[self.position(self.current) :]

    def position(self, revision: str | None) -> int:
        """Return how many revisions lead to this one; raises DatabaseVersionError for one that is not known."""
        if revision is None or revision == EMPTY:
            return 0
        ids = [known.id for known in self.known]
        if revision not in ids:
            raise DatabaseVersionError(f"there is no revision {revision!r:.80}; there are {EMPTY}, {', '.join(ids)}")
        return ids.index(revision) + 1


def read_versions(address: str) -> Versions:
    """Look at a database without changing it; one that does not exist yet is not made by that."""
    engine = make_engine(address)
    try:
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
            return Versions(None, _known())
        with engine.execution_options(**{READING: True}).connect() as connection:
            return _versions(connection)
    except DBAPIError as error:
        raise _unavailable(engine, error) from error
    finally:
        engine.dispose()


def migrate(address: str, target: str | None = None, *, may_lose_data: bool = False) -> tuple[str | None, str | None]:
    """Bring the tables to a revision, the newest unless another is named; return the revisions before and after.

    Of several processes that do so at once, one does, and the others find it done. Raises DatabaseVersionError for a
    revision that is not known, and for the way down without `may_lose_data`.
    """
    engine = make_engine(address)
    try:
        return _migrate(engine, target, may_lose_data=may_lose_data)
    except DBAPIError as error:
        raise _unavailable(engine, error) from error
    finally:
        engine.dispose()


def bring_up_to_date(engine: Engine, *, may_migrate: bool) -> None:
    """See that the tables are of this version; raises DatabaseVersionError where they are not, and may not be changed.

    Those of a newer version are refused in any case.
    """
    try:
        with engine.execution_options(**{READING: True}).connect() as connection:
            versions = _versions(connection)
        _refuse_newer(versions)
        if not versions.pending:
            return
        if not may_migrate:
            has = "has no tables" if versions.current is None else f"has revision {versions.current}"
            raise DatabaseVersionError(
                f"the database {has}, this version of Akin needs {versions.newest}, and AKIN_AUTO_MIGRATE is off; "
                "run: akin migrate"
            )
        _migrate(engine, None, may_lose_data=False)
    except DBAPIError as error:
        raise _unavailable(engine, error) from error


def _migrate(engine: Engine, target: str | None, *, may_lose_data: bool) -> tuple[str | None, str | None]:
    """Do all that is to be done in one transaction: it is done whole, or not at all."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{_ADVISORY_SECONDS}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{_TABLE_LOCK_SECONDS}s'"))
        # Now that no other process can change it.
        versions = _versions(connection)
        _refuse_newer(versions)
        wanted = target or versions.newest
        here, there = versions.position(versions.current), versions.position(wanted)
        if there < here and not may_lose_data:
            raise DatabaseVersionError(
                f"going from {versions.current} down to {wanted} removes for good what the older tables have no place "
                "for; make a backup, then say --yes"
            )
        if here != there:
            _run(connection, wanted, is_upgrade=there > here)
    after = None if there == 0 else wanted
    if after != versions.current:
        log.info("database_migrated before=%s after=%s", versions.current, after)
    return versions.current, after


def _run(connection: Connection, target: str, *, is_upgrade: bool) -> None:
    config = _config()
    config.attributes["connection"] = connection
    (command.upgrade if is_upgrade else command.downgrade)(config, target)


def _versions(connection: Connection) -> Versions:
    current = MigrationContext.configure(connection).get_current_revision()
    return Versions(current, _known())


def _known() -> tuple[Revision, ...]:
    scripts = reversed(list(ScriptDirectory.from_config(_config()).walk_revisions()))
    return tuple(Revision(script.revision, (script.doc or "").rstrip(".")) for script in scripts)


def _refuse_newer(versions: Versions) -> None:
    if versions.is_newer:
        raise DatabaseVersionError(
            f"the database has revision {versions.current!r}, which this version of Akin does not know; it was written "
            "by a newer version: upgrade Akin, or set AKIN_DATABASE_URL or AKIN_HOME to another database"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _unavailable(engine: Engine, error: DBAPIError) -> DatabaseUnavailable:
    if sqlstate_of(error) == _LOCK_NOT_AVAILABLE:
        return DatabaseUnavailable(
            f"the tables were in use for {_TABLE_LOCK_SECONDS} s, and nothing was changed; stop what writes to them "
            "(imports, builds, workers) and try again"
        )
    return DatabaseUnavailable(describe_failure(engine, error))
