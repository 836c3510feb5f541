"""DBOS, which remembers what workers have done: where it keeps that, and how it connects."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer
from dbos._error import DBOSInitializationError

from service.installation.settings import Settings
from service.storage.engine import make_engine
from service.storage.errors import DatabaseVersionError
from service.storage.postgresql import SESSION

# Its threads ask one after the other; one connection more listens.
_POOL_SIZE = 5
# As DBOS would set it for its own connections. It waits for locks in its own way.
_SESSION = {name: value for name, value in SESSION.items() if name != "lock_timeout"} | {
    "idle_in_transaction_session_timeout": "60s"
}

log = structlog.get_logger(__name__)


def migrate_jobs(settings: Settings) -> None:
    """Bring DBOS's own tables to its version: a schema `dbos` beside ours, with SQLite a file beside ours."""
    # Not its warning where the user may not look at the database called postgres.
    logging.getLogger("dbos").setLevel(logging.ERROR)
    DBOS.migrate(settings.jobs_address)


@contextmanager
def job_engine(settings: Settings, *, worker_id: str, version: str) -> Iterator[None]:
    """Run DBOS for as long as the block does."""
    logging.getLogger("dbos").setLevel(logging.WARNING)
    config: DBOSConfig = {
        "name": "akin",
        "system_database_url": settings.jobs_address,
        "executor_id": worker_id,
        "application_version": version,
        "log_level": "WARNING",
        # JSON, not pickle: what stands in a database must not run.
        "serializer": DBOSPortableJSONSerializer(),
        "run_migrations": settings.auto_migrate,
    }
    # With connections of ours, which a server that hangs does not hold up for ever.
    engine = make_engine(settings.jobs_address, pool_size=_POOL_SIZE, max_overflow=0, session=_SESSION)
    if engine.dialect.name == "postgresql":
        config["system_database_engine"] = engine
    DBOS(config=config)
    try:
        try:
            DBOS.launch()
        except DBOSInitializationError as error:
            log.error("jobs_database_refused", reason=type(error.__cause__ or error).__name__)
            raise DatabaseVersionError(
                "the workers' tables are not of this version, and AKIN_AUTO_MIGRATE is off; run: akin migrate"
            ) from error
        yield
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)
        engine.dispose()
