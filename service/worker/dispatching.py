"""Keep the rows of operations and the engine's workflows in step.

A request writes only the row. Workers hand it to the engine, which queues workflows, records the results of their steps
and restarts them. The engine cannot know two things: that the executor of a workflow is dead, and that an operation is
still active although its workflow has ended.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass, field

import structlog

from service.operations.claims import claim_operation, end_operation, locked_operation
from service.operations.kinds import KINDS
from service.operations.records import select_operations
from service.storage.database import Database
from service.storage.tables.operations import ACTIVE_STATES, FAILED, Operation
from service.worker.job_engine import ENDED_STATUSES, JobEngine, Workflow

_MAX_ACTIVE = 1000

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Dispatcher:
    """Hands operations to the engine, and repairs what dead workers have left."""

    engine: JobEngine
    database: Database
    worker_id: str
    version: str
    living: Callable[[], set[str]]  # the ids of the living workers, this one included
    at_work: Set[str]  # ids of the operations that this worker performs now
    clean_up: Callable[[str], None] = lambda _operation_id: None  # called for operations that are ended here
    _enqueued: set[str] = field(default_factory=set)
    _unattended: set[str] = field(default_factory=set)

    def hand_over(self) -> bool:
        """Enqueue the workflows of new operations; return whether any operation is queued or running."""
        active = self._active()
        # The oldest first: imports are performed in the order in which they were requested.
        for operation in reversed(active):
            if operation.id not in self._enqueued and operation.kind in KINDS:
                # If the engine has lost its records, a running operation begins again; its steps are repeatable.
                self.engine.enqueue(operation.kind, operation.id)
                self._enqueued.add(operation.id)
        return bool(active)

    def repair(self) -> None:
        """Take over the work of dead workers, and end operations whose workflow cannot end them."""
        pending = self.engine.pending()
        active = self._active()
        if pending or active:
            living = self.living()
            self._take_over(pending, living)
            self._end_orphans(active, living)

    def _take_over(self, pending: list[Workflow], living: set[str]) -> None:
        own = {workflow.operation_id for workflow in pending if workflow.executor_id == self.worker_id}
        # This worker may have lost an operation to one that woke up late, although the engine still assigns it to this
        # one. Seen twice in a row, since a workflow is pending for a moment before it starts.
        unattended = own - self.at_work
        for workflow in pending:
            is_abandoned = workflow.executor_id not in living or (
                workflow.operation_id in unattended & self._unattended
            )
            if is_abandoned and workflow.version == self.version:
                self._resume(workflow)
        self._unattended = unattended

    def _resume(self, workflow: Workflow) -> None:
        # Compare and set: `resume` is unconditional, and all workers may see the same death. Under the lock of the row,
        # one of them finds the workflow unchanged; for those that follow, it is queued or has another executor.
        with locked_operation(self.database, workflow.operation_id) as operation:
            if self.engine.workflows([workflow.operation_id]) != [workflow]:
                return
            queue = workflow.queue or KINDS[0]
            if operation is not None and operation.state in ACTIVE_STATES:
                # From here on the former worker can write nothing, should it only have been slow.
                operation.worker_id = None
                queue = operation.kind
            self.engine.resume(workflow.operation_id, queue)
        log.warning("operation_taken_over", operation_id=workflow.operation_id, worker_id=workflow.executor_id)

    def _end_orphans(self, active: list[Operation], living: set[str]) -> None:
        """End operations whose workflow has ended without them, or is of another version and no living worker.

        Otherwise they would stay active indefinitely, and block all later operations of their kind.
        """
        for workflow in self.engine.workflows([operation.id for operation in active]) if active else ():
            is_other_version = workflow.version not in (None, self.version)
            if workflow.status in ENDED_STATUSES:
                code = "internal-error"
                detail = f"its workflow has ended as {workflow.status} without it; request it again"
            elif is_other_version and workflow.executor_id not in living:
                code, detail = "worker-upgraded", "it was begun by another version of Akin; request it again"
            else:
                continue
            if claim_operation(self.database, workflow.operation_id, self.worker_id) is not None:
                log.error("operation_without_workflow", operation_id=workflow.operation_id, code=code)
                error = {"code": code, "detail": detail}
                end_operation(self.database, workflow.operation_id, self.worker_id, FAILED, error)
                self.clean_up(workflow.operation_id)

    def _active(self) -> list[Operation]:
        with self.database.reading() as session:
            return select_operations(session, states=ACTIVE_STATES, limit=_MAX_ACTIVE)
