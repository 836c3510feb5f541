"""Request and response bodies of releases, activations and processes."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.releases.activation import ActivationOutcome
from service.releases.inspection import ReleaseDetails
from service.releases.queries import ListedRelease
from service.releases.records import ActiveRelease
from service.storage.database import in_utc
from service.storage.tables.releases import ActivationEvent
from service.web.schemas.evaluations import EvaluationView


class ActivationRequest(BaseModel):
    """The reason for an activation, and the activation it is based on. The body is optional."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1000, description="Kept with the activation.")
    expected_version: int | None = Field(
        None,
        ge=0,
        strict=True,
        description="Version of the activation that the decision is based on; if it has changed, the answer is 409.",
    )


class RollbackRequest(ActivationRequest):
    """An activation request with the release to roll back to."""

    to: str | None = Field(None, min_length=1, description="Id of a release (default: the previously active one).")


class ActivationState(BaseModel):
    """The present activation; `version` counts activations and rollbacks."""

    version: int
    release_id: str | None
    previous_release_id: str | None
    activated_at: datetime | None

    @classmethod
    def of(cls, active: ActiveRelease) -> "ActivationState":
        """Describe the present activation."""
        return cls(
            version=active.version,
            release_id=active.release_id,
            previous_release_id=active.previous_release_id,
            activated_at=in_utc(active.activated_at),
        )


class ActivationResult(BaseModel):
    """The active release. Servers answer from it after their poll interval and the time to load it."""

    release_id: str
    previous_release_id: str | None
    version: int
    has_changed: bool = Field(description="False if the release was active before.")

    @classmethod
    def of(cls, outcome: ActivationOutcome) -> "ActivationResult":
        """Describe the outcome of an activation."""
        return cls(
            release_id=outcome.release_id,
            previous_release_id=outcome.previous_release_id,
            version=outcome.version,
            has_changed=outcome.has_changed,
        )


class ActivationView(BaseModel):
    """An activation or rollback."""

    version: int
    release_id: str
    previous_release_id: str | None
    activated_at: datetime
    activated_by: str
    reason: str
    operation_id: str | None

    @classmethod
    def of(cls, event: ActivationEvent) -> "ActivationView":
        """Describe a row of the table."""
        return cls(
            version=event.version,
            release_id=event.release_id,
            previous_release_id=event.previous_release_id,
            activated_at=in_utc(event.activated_at),
            activated_by=event.activated_by,
            reason=event.reason,
            operation_id=event.operation_id,
        )


class ActivationList(BaseModel):
    """Activations, newest first."""

    activations: list[ActivationView]
    next: int | None = Field(description="`before` of the next page; null on the last page.")


class Server(BaseModel):
    """A server that is alive."""

    process_id: str
    host: str
    pid: int


class ReleaseView(BaseModel):
    """A release, and the servers that answer from it."""

    release_id: str
    created_at: datetime
    is_active: bool
    is_previous: bool = Field(description="It was active before the present one; a rollback activates it.")
    served_by: list[Server] = Field(description="Living servers that answer from it.")
    space_id: str
    index_id: str
    watermark: int = Field(description="Number of the last catalogue change that it contains.")
    num_products: int
    num_images: int
    operation_id: str | None = Field(description="The operation that built it; null if a command did.")
    evaluation: EvaluationView | None = Field(description="Its newest evaluation.")

    @classmethod
    def of(cls, listed: ListedRelease) -> "ReleaseView":
        """Describe a release."""
        release = listed.release
        return cls(
            release_id=release.id,
            created_at=in_utc(release.created_at),
            is_active=listed.is_active,
            is_previous=listed.is_previous,
            served_by=[Server(process_id=server.id, host=server.host, pid=server.pid) for server in listed.servers],
            space_id=release.space_id,
            index_id=release.index_id,
            watermark=release.watermark,
            num_products=release.num_products,
            num_images=release.num_images,
            operation_id=release.operation_id,
            evaluation=EvaluationView.of(listed.evaluation) if listed.evaluation else None,
        )


class ReleaseList(BaseModel):
    """Releases, newest first."""

    activation: ActivationState
    releases: list[ReleaseView]
    next: str | None = Field(description="`before` of the next page; null on the last page.")


class ReleaseDetail(ReleaseView):
    """A release with its manifest, activations and evaluations."""

    manifest: dict[str, Any] | None = Field(description="The facts of its manifest; null if it cannot be read.")
    problem: str | None = Field(description="Why its manifest cannot be read.")
    activations: list[ActivationView]
    evaluations: list[EvaluationView]

    @classmethod
    def from_details(cls, details: ReleaseDetails) -> "ReleaseDetail":
        """Describe a release in full."""
        return cls(
            **dict(ReleaseView.of(details.listed)),
            manifest=None if details.manifest is None else dict(details.manifest),
            problem=details.problem,
            activations=[ActivationView.of(event) for event in details.activations],
            evaluations=[EvaluationView.of(evaluation) for evaluation in details.evaluations],
        )
