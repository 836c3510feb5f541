"""DBOS, the durable engine: it holds queues, workflows and the results of their steps.

The only module that calls it. A workflow's id is its operation's, so that enqueuing it again changes nothing.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID, WorkflowStatus
from dbos import error as dbos_error

from service.installation.settings import Settings
from service.operations.kinds import IMPORT_KINDS, KINDS
from service.storage.connections import make_engine
from service.storage.errors import DatabaseVersionError
from service.storage.postgresql import SESSION

PENDING = "PENDING"  # an executor has taken it from the queue, and may have died since
ENDED_STATUSES = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

_WORKFLOW = "operation"
_POLL_SECONDS = 0.5
# DBOS's threads query one after the other; one more connection listens.
_POOL_SIZE = 5
# As DBOS would set it for its own connections, except that it waits for locks in its own way.
_SESSION = {name: value for name, value in SESSION.items() if name != "lock_timeout"} | {
    "idle_in_transaction_session_timeout": "60s"
}

log = structlog.get_logger(__name__)
_dbos_log = logging.getLogger("dbos")


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow as DBOS records it."""

    operation_id: str
    status: str
    executor_id: str | None
    version: str | None
    queue: str | None


class JobEngine:
    """The queues and workflows; valid inside `job_engine`."""

    def __init__(self, workflow: Callable[[str], str]) -> None:
        self._workflow = workflow

    def enqueue(self, queue: str, operation_id: str) -> None:
        """Create an operation's workflow in a queue; idempotent."""
        with SetWorkflowID(operation_id):
            DBOS.enqueue_workflow(queue, self._workflow, operation_id)

    def workflows(self, operation_ids: Collection[str]) -> list[Workflow]:
        """Return the workflows of these operations, as far as they exist."""
        found = DBOS.list_workflows(workflow_ids=list(operation_ids), load_input=False, load_output=False)
        return [_workflow_of(status) for status in found]

    def pending(self) -> list[Workflow]:
        """Return all workflows that executors have taken from a queue and not ended."""
        found = DBOS.list_workflows(status=PENDING, load_input=False, load_output=False)
        return [_workflow_of(status) for status in found]

    def resume(self, operation_id: str, queue: str) -> None:
        """Put a workflow back into a queue. Unconditional: the caller checks first that its executor is dead."""
        DBOS.resume_workflow(operation_id, queue_name=queue)


def run_once(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Perform a step of the current workflow, or return what it returned before; a `StepRunner`."""
    return DBOS.run_step({"name": name}, work)


def migrate_jobs(settings: Settings) -> None:
    """Migrate DBOS's tables: a schema `dbos` beside ours on PostgreSQL, a file beside ours on SQLite."""
    # Its warning that the user may not read the database named postgres is irrelevant here.
    _dbos_log.setLevel(logging.ERROR)
    DBOS.migrate(settings.jobs_address)


@contextmanager
def job_engine(
    settings: Settings, perform: Callable[[str], str], *, worker_id: str, version: str
) -> Iterator[JobEngine]:
    """Run DBOS for the block; it calls `perform` with the id of each operation that it takes from a queue.

    One engine a process at a time. Raises DatabaseVersionError if DBOS's tables are missing and may not be created.
    """
    _dbos_log.setLevel(logging.WARNING)
    config: DBOSConfig = {
        "name": "akin",
        "system_database_url": settings.jobs_address,
        "executor_id": worker_id,
        "application_version": version,
        "log_level": "WARNING",
        # JSON, not pickle: contents of a database must not be executable.
        "serializer": DBOSPortableJSONSerializer(),
        "run_migrations": settings.auto_migrate,
    }
    # Our own connections have timeouts, so that a hanging server does not block them indefinitely.
    engine = make_engine(settings.jobs_address, pool_size=_POOL_SIZE, max_overflow=0, session=_SESSION)
    if engine.dialect.name == "postgresql":
        config["system_database_engine"] = engine
    DBOS(config=config)

    @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
    def workflow(operation_id: str) -> str:
        return perform(operation_id)

    try:
        try:
            DBOS.launch()
        except dbos_error.DBOSInitializationError as error:
            log.error("jobs_database_refused", reason=type(error.__cause__ or error).__name__)
            raise DatabaseVersionError(
                "the workers' tables are not of this version, and AKIN_AUTO_MIGRATE is off; run: akin migrate"
            ) from error
        # A queue for each kind: a training run of a day does not keep a release of the catalogue waiting.
        for kind in KINDS:
            DBOS.register_queue(
                kind,
                worker_concurrency=1,
                # All workers together perform uploads in their order: of two that set the same value, the later wins.
                global_concurrency=1 if kind in IMPORT_KINDS else None,
                polling_interval_sec=_POLL_SECONDS,
            )
        yield JobEngine(workflow)
    finally:
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
        engine.dispose()
        # DBOS leaves the handler that it has given its logger.
        _dbos_log.handlers.clear()
        _dbos_log.propagate = True


def _workflow_of(status: WorkflowStatus) -> Workflow:
    return Workflow(status.workflow_id, status.status, status.executor_id, status.app_version, status.queue_name)
