"""Releases, activations and processes as they go over HTTP."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.releases.activation import Activated
from service.releases.records import ActiveRelease
from service.storage.database import in_utc
from service.storage.tables.operations import Process
from service.storage.tables.releases import ActivationEvent, Evaluation, Release
from service.web.schemas.evaluations import EvaluationView


class ActivationRequest(BaseModel):
    """Why, and upon what state it was decided. The body may be left out."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=1000, description="Kept with the activation.")
    expected_version: int | None = Field(
        None,
        ge=0,
        strict=True,
        description="Version of the activation that was seen; another one is answered with 409.",
    )


class RollbackRequest(ActivationRequest):
    """The same, and where to go back to."""

    to: str | None = Field(None, min_length=1, description="Id of a release (default: the one active before).")


class ActivationState(BaseModel):
    """Which release is served, and the version of that decision."""

    version: int
    release_id: str | None
    previous_release_id: str | None
    activated_at: datetime | None

    @classmethod
    def of(cls, active: ActiveRelease) -> "ActivationState":
        """Describe the present state."""
        return cls(
            version=active.version,
            release_id=active.release_id,
            previous_release_id=active.previous_release_id,
            activated_at=in_utc(active.activated_at),
        )


class ActivationResult(BaseModel):
    """What is active now. Servers take it up within their poll interval and the time to load it."""

    release_id: str
    previous_release_id: str | None
    version: int
    has_changed: bool = Field(description="False: it was active before.")

    @classmethod
    def of(cls, activated: Activated) -> "ActivationResult":
        """Describe an activation."""
        return cls(
            release_id=activated.release_id,
            previous_release_id=activated.previous_release_id,
            version=activated.version,
            has_changed=activated.has_changed,
        )


class ActivationView(BaseModel):
    """One activation or rollback of the past."""

    version: int
    release_id: str
    previous_release_id: str | None
    activated_at: datetime
    activated_by: str
    reason: str
    operation_id: str | None

    @classmethod
    def of(cls, event: ActivationEvent) -> "ActivationView":
        """Describe a row."""
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
    """Activations, the newest first."""

    activations: list[ActivationView]


class ProcessView(BaseModel):
    """A process of this installation."""

    process_id: str
    kind: str = Field(description="`api` or `worker`.")
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime = Field(description="When it last said that it lives: every few seconds.")
    stopped_at: datetime | None
    is_living: bool = Field(description="It has not stopped, and was heard of within a minute.")
    release_id: str | None = Field(description="What a server answers from.")
    refusal: str | None = Field(description="Why a server does not answer from the active release.")

    @classmethod
    def of(cls, process: Process, *, is_living: bool) -> "ProcessView":
        """Describe a row."""
        return cls(
            process_id=process.id,
            kind=process.kind,
            host=process.host,
            pid=process.pid,
            started_at=in_utc(process.started_at),
            seen_at=in_utc(process.seen_at),
            stopped_at=in_utc(process.stopped_at),
            is_living=is_living,
            release_id=process.release_id,
            refusal=process.refusal,
        )


class ProcessList(BaseModel):
    """Processes, the last one seen first; those that ended are kept for a day."""

    processes: list[ProcessView]


class Server(BaseModel):
    """A living server."""

    process_id: str
    host: str
    pid: int


class ReleaseView(BaseModel):
    """A release, and who answers from it."""

    release_id: str
    created_at: datetime
    is_active: bool
    is_previous: bool = Field(description="It was active before the present one: what a rollback leads to.")
    served_by: list[Server] = Field(description="Living servers that answer from it.")
    space_id: str
    index_id: str
    watermark: int = Field(description="Number of the last change of the catalogue that it holds.")
    num_products: int
    num_images: int
    operation_id: str | None = Field(description="What made it, unless a command did.")
    evaluation: EvaluationView | None = Field(description="The newest one of it.")

    @classmethod
    def of(
        cls, release: Release, active: ActiveRelease, servers: Iterable[Process], evaluation: Evaluation | None
    ) -> "ReleaseView":
        """Describe a row."""
        return cls(
            release_id=release.id,
            created_at=in_utc(release.created_at),
            is_active=release.id == active.release_id,
            is_previous=release.id == active.previous_release_id,
            served_by=[
                Server(process_id=server.id, host=server.host, pid=server.pid)
                for server in servers
                if server.release_id == release.id
            ],
            space_id=release.space_id,
            index_id=release.index_id,
            watermark=release.watermark,
            num_products=release.num_products,
            num_images=release.num_images,
            operation_id=release.operation_id,
            evaluation=EvaluationView.of(evaluation) if evaluation else None,
        )


class ReleaseList(BaseModel):
    """Releases, the newest first."""

    activation: ActivationState
    releases: list[ReleaseView]


class ReleaseDetail(ReleaseView):
    """A release with all that is known of it."""

    manifest: dict[str, Any] | None = Field(description="What its manifest says; null when that cannot be read.")
    problem: str | None = Field(description="Why its manifest cannot be read.")
    activations: list[ActivationView]
    evaluations: list[EvaluationView]
