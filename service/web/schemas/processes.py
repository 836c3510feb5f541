"""Processes as they go over HTTP."""

from datetime import datetime

from pydantic import BaseModel, Field

from service.storage.database import in_utc
from service.storage.tables.processes import Process


class ProcessView(BaseModel):
    """A process of this installation."""

    process_id: str
    kind: str = Field(description="`api` or `worker`.")
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime = Field(description="Time of its last heartbeat, which it sends every few seconds.")
    stopped_at: datetime | None
    is_living: bool = Field(description="It has not stopped, and its last heartbeat is at most a minute old.")
    release_id: str | None = Field(description="The release that a server answers from.")
    refusal: str | None = Field(description="Why a server does not answer from the active release.")

    @classmethod
    def of(cls, process: Process, *, is_living: bool) -> "ProcessView":
        """Describe a row of the table."""
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
    """Processes by last heartbeat, newest first; those that ended are kept for a day."""

    processes: list[ProcessView]
