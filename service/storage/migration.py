"""Versions of the tables: which revision a database has, and its migration to another one.

Alembic is imported only by functions that need it: a database at the current revision, the usual case, does not.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from service.storage.connections import READING, describe_failure, make_engine, sqlstate_of
from service.storage.errors import DatabaseUnavailable, DatabaseVersionError
from service.storage.postgresql import SESSION
from service.storage.tables.table import TABLES_REVISION

if TYPE_CHECKING:
    from alembic.config import Config

EMPTY = "base"  # Alembic's name for the state before the first revision: no tables

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that is the same in every process.
_ADVISORY_LOCK = 0x616B696E
_LOCK_NOT_AVAILABLE = "55P03"

# Commands leave structlog unconfigured, and it would then print to standard output.
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Versions:
    """The revision of a database, and the revisions that this version of Akin knows."""

    current: str | None  # None: there are no tables
    titles: Mapping[str, str]  # by revision, oldest first

    @property
    def is_newer(self) -> bool:
        """Whether a newer version of Akin wrote the database."""
        return self.current is not None and self.current not in self.titles

    @property
    def pending(self) -> list[str]:
        """Revisions that lead from the current one to the newest, in order."""
        return [] if self.is_newer else list(self.titles)[self.position(self.current or EMPTY) :]

    def position(self, revision: str) -> int:
        """Return the number of revisions up to and including `revision`; raises DatabaseVersionError if unknown."""
        known = [EMPTY, *self.titles]
        if revision not in known:
            raise DatabaseVersionError(f"there is no revision {revision!r:.80}; revisions are {', '.join(known)}")
        return known.index(revision)


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the tables, None if there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def read_versions(address: str) -> Versions:
    """Read the revision of a database without changing or creating it."""
    engine = make_engine(address)
    try:
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").exists():
            return Versions(None, _titles())
        with engine.execution_options(**{READING: True}).connect() as connection:
            return Versions(current_revision(connection), _titles())
    except DBAPIError as error:
        raise _unavailable(engine, error) from error
    finally:
        engine.dispose()


def migrate(address: str, target: str | None = None, *, may_lose_data: bool = False) -> tuple[str | None, str | None]:
    """Bring the tables to `target`, by default the newest revision; return the revisions before and after.

    Safe to call in several processes at once. Raises DatabaseVersionError for an unknown revision, and for a downgrade
    without `may_lose_data`.
    """
    engine = make_engine(address)
    try:
        return _migrate(engine, target or TABLES_REVISION, may_lose_data=may_lose_data)
    except DBAPIError as error:
        raise _unavailable(engine, error) from error
    finally:
        engine.dispose()


def ensure_current(engine: Engine, *, may_migrate: bool) -> None:
    """Migrate older tables if `may_migrate`; raises DatabaseVersionError otherwise, and for newer ones."""
    try:
        with engine.execution_options(**{READING: True}).connect() as connection:
            current = current_revision(connection)
        if current == TABLES_REVISION:
            return
        _refuse_newer(Versions(current, _titles()))
        if not may_migrate:
            has = "has no tables" if current is None else f"has revision {current}"
            raise DatabaseVersionError(
                f"the database {has}, this version of Akin needs {TABLES_REVISION}, and AKIN_AUTO_MIGRATE is off; "
                "run: akin migrate"
            )
        _migrate(engine, TABLES_REVISION, may_lose_data=False)
    except DBAPIError as error:
        raise _unavailable(engine, error) from error


def _migrate(engine: Engine, target: str, *, may_lose_data: bool) -> tuple[str | None, str | None]:
    from alembic import command

    # One transaction: all steps are done, or none.
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Processes that start at once migrate one after the other. On SQLite, the transaction itself locks.
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
        versions = Versions(current_revision(connection), _titles())
        _refuse_newer(versions)
        num_steps = versions.position(target) - versions.position(versions.current or EMPTY)
        if num_steps < 0 and not may_lose_data:
            raise DatabaseVersionError(
                f"the downgrade from {versions.current} to {target} deletes what the older tables cannot hold; "
                "make a backup, then add --yes"
            )
        config = _config()
        config.attributes["connection"] = connection
        if num_steps > 0:
            command.upgrade(config, target)
        elif num_steps < 0:
            command.downgrade(config, target)
    after = None if target == EMPTY else target
    if num_steps:
        log.info("database_migrated before=%s after=%s", versions.current, after)
    return versions.current, after


def _titles() -> dict[str, str]:
    from alembic.script import ScriptDirectory

    scripts = reversed(list(ScriptDirectory.from_config(_config()).walk_revisions()))
    return {script.revision: (script.doc or "").rstrip(".") for script in scripts}


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    # Alembic interpolates `%` in options.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _refuse_newer(versions: Versions) -> None:
    if versions.is_newer:
        raise DatabaseVersionError(
            f"the database has revision {versions.current!r}, which this version of Akin does not know; it was written "
            "by a newer version: upgrade Akin, or set AKIN_DATABASE_URL or AKIN_HOME to another database"
        )


def _unavailable(engine: Engine, error: DBAPIError) -> DatabaseUnavailable:
    if sqlstate_of(error) == _LOCK_NOT_AVAILABLE:
        return DatabaseUnavailable(
            f"the tables were in use for {SESSION['lock_timeout']}, and nothing was changed; stop what writes to them "
            "(imports, builds, workers, another migration) and try again"
        )
    return DatabaseUnavailable(describe_failure(engine, error))
