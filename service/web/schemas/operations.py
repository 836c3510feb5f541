"""Operations as JSON, over HTTP and on the command line."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, cast

from pydantic import BaseModel, Field

from service.operations.kinds import IMPORT_KINDS, RETRAIN, Kind
from service.operations.row_errors import ROW_COUNTS, RowErrorPage
from service.storage.database import in_utc
from service.storage.tables.operations import QUEUED, SUCCEEDED, Operation, OperationState, RowErrorKind

OPERATIONS_PATH = "/v1/operations"
_NO_WORKER = "no worker is running on this installation; start one: akin worker"


class OperationStep(BaseModel):
    """A step that was begun; without `finished_at` it is running, or was interrupted and will be repeated.

    `seconds` is the duration of the attempt that finished it; the step that an operation ended in has none.
    """

    name: str
    started_at: datetime
    finished_at: datetime | None = None
    seconds: float | None = None


class OperationProgress(BaseModel):
    """The progress of the current step."""

    stage: str
    done: int | None = None
    total: int | None = None
    per_second: float | None = None
    seconds_left: float | None = None
    stage_rates: dict[str, float] | None = Field(
        None,
        description="While images are embedded: the images per second that each part could do alone (`read`, "
        "`decode`, `network`, `write`). The lowest limits the whole.",
    )
    loss: float | None = None
    validation: dict[str, Any] | None = Field(None, description="Metrics of the latest validation, by name.")


class OperationError(BaseModel):
    """Why the operation did not succeed. `code` is stable."""

    code: str
    detail: str


class OperationView(BaseModel):
    """Work that outlasts a request."""

    operation_id: str
    kind: Kind
    state: OperationState = Field(
        description="`queued`: no worker has it yet. `running`. `succeeded`. `rejected`: everything worked, but the "
        "gate did not accept the result. `failed`: see `error`. `cancelled`."
    )
    step: str | None = Field(description="The current step, or the last one.")
    steps: list[OperationStep]
    progress: OperationProgress | None
    notes: list[str] = Field(description="What people should know, such as that no worker is running.")
    result: dict[str, Any] = Field(description="Facts that the finished steps recorded, by name.")
    error: OperationError | None
    request: dict[str, Any]
    created_by: str
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    worker_id: str | None
    links: dict[str, str] = Field(
        description="URLs: self, cancel, errors, report, candidate, active, compare, release, activate."
    )

    @classmethod
    def of(cls, operation: Operation, root_path: str = "", *, lacks_worker: bool = False) -> "OperationView":
        """Describe an operation; `root_path` is the path prefix that the gateway has removed.

        `lacks_worker`: no worker runs that would begin an operation that is queued.
        """
        return cls(
            operation_id=operation.id,
            kind=cast(Kind, operation.kind),
            state=cast(OperationState, operation.state),
            step=operation.step,
            steps=[OperationStep.model_validate(step) for step in operation.steps],
            progress=OperationProgress.model_validate(operation.progress) if operation.progress else None,
            notes=[_NO_WORKER] if lacks_worker and operation.state == QUEUED else [],
            result=operation.result,
            error=OperationError.model_validate(operation.error) if operation.error else None,
            request=operation.request,
            created_by=operation.created_by,
            created_at=in_utc(operation.created_at),
            started_at=in_utc(operation.started_at),
            updated_at=in_utc(operation.updated_at),
            finished_at=in_utc(operation.finished_at),
            cancel_requested_at=in_utc(operation.cancel_requested_at),
            worker_id=operation.worker_id,
            links={name: root_path + path for name, path in _links(operation).items()},
        )


class OperationList(BaseModel):
    """A page of operations, newest first."""

    operations: list[OperationView]
    next: str | None = Field(description="URL of the next page, if there is one.")


class RowErrorView(BaseModel):
    """A row that could not be used (`failed`), or a file that was left out (`left-out`), and the reason."""

    number: int
    kind: RowErrorKind
    location: str
    message: str


class RowErrorList(BaseModel):
    """A page of the rows that failed and the files that were left out; the counts are those of the whole upload."""

    num_failed: int
    num_left_out: int
    num_images_left_out: int = Field(description="Of the files that were left out: images, or what may be one.")
    num_listed: int = Field(description="How many of them are kept; of a larger number the first 100,000.")
    errors: list[RowErrorView]
    next: str | None = Field(description="URL of the next page, if there is one.")

    @classmethod
    def of(cls, page: RowErrorPage, next_page: str | None) -> "RowErrorList":
        """Describe a page."""
        views = [RowErrorView(number=number, **asdict(problem)) for number, problem in page.problems]
        return cls(**asdict(page.counts), errors=views, next=next_page)


def _links(operation: Operation) -> dict[str, str]:
    own = f"{OPERATIONS_PATH}/{operation.id}"
    links = {"self": own}
    if operation.finished_at is None:
        links["cancel"] = f"{own}:cancel"
    result: Mapping[str, Any] = operation.result
    if operation.kind in IMPORT_KINDS or ROW_COUNTS in result:
        links["errors"] = f"{own}/errors"
    if operation.kind == RETRAIN and "training" in result:
        links["report"] = f"{own}/report"
    evaluations = {name: result[name]["evaluation_id"] for name in ("candidate", "active") if name in result}
    links |= {name: f"/v1/admin/evaluations/{evaluation}" for name, evaluation in evaluations.items()}
    if len(evaluations) > 1:
        links["compare"] = f"/v1/admin/evaluations/compare?a={evaluations['active']}&b={evaluations['candidate']}"
    if "release" in result:
        links["release"] = f"/v1/admin/releases/{result['release']['release_id']}"
        if operation.state == SUCCEEDED and not result.get("is_active"):
            links["activate"] = f"{links['release']}:activate"
    return links
