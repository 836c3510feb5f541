"""The state of a process as it goes over HTTP."""

from typing import Literal

from pydantic import BaseModel, Field


class Liveness(BaseModel):
    """The process runs."""

    status: str = "alive"


class ReadinessCheck(BaseModel):
    """One of the things that a server needs."""

    ok: bool
    reason: str | None = Field(description="What is wrong; null where nothing is.")


class ReleaseCheck(ReadinessCheck):
    """The release: not ok while there is none, and while another should be served than `release_id`."""

    release_id: str | None


class ReadinessChecks(BaseModel):
    """All of them; where the database or the disk is not ok, searches are answered all the same."""

    release: ReleaseCheck
    database: ReadinessCheck
    disk: ReadinessCheck


class Readiness(BaseModel):
    """A release is loaded and searches are answered."""

    status: Literal["ready", "degraded"] = Field(description="degraded: one of the checks is not ok.")
    release_id: str | None = None
    warning: str | None = Field(None, description="Why a newer release was refused while this one goes on serving.")
    checks: ReadinessChecks


class Version(BaseModel):
    """What runs here."""

    akin: str
    python: str
    torch: str
    release_id: str | None
    space_id: str | None
    num_products: int | None
    num_images: int | None
