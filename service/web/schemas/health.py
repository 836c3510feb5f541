"""The state of a process, as JSON."""

from typing import Literal

from pydantic import BaseModel, Field


class Liveness(BaseModel):
    """The process runs."""

    status: str = "alive"


class ReadinessCheck(BaseModel):
    """The state of one dependency of the server."""

    ok: bool
    reason: str | None = Field(description="What is wrong; null if nothing is.")


class ReleaseCheck(ReadinessCheck):
    """The release in use; not ok if there is none, or if it is not the active one because that cannot be loaded."""

    release_id: str | None


class ReadinessChecks(BaseModel):
    """All checks. Searches need neither the database nor the disk, and work with an index on the CPU."""

    release: ReleaseCheck
    network: ReadinessCheck = Field(description="Whether the network runs; if not, the response is 503.")
    index: ReadinessCheck = Field(description="Not ok while the index is on the CPU since it does not fit on the GPU.")
    database: ReadinessCheck
    disk: ReadinessCheck


class Readiness(BaseModel):
    """A release is loaded and searches are possible."""

    status: Literal["ready", "degraded"] = Field(description="degraded: at least one check is not ok.")
    release_id: str | None = None
    warning: str | None = Field(
        None, description="Why the active release cannot be loaded, while this one stays in use."
    )
    checks: ReadinessChecks


class Version(BaseModel):
    """Versions of what runs in this process."""

    akin: str
    python: str
    torch: str
    release_id: str | None
    space_id: str | None
    num_products: int | None
    num_images: int | None
    network_runtime: str | None = Field(None, description="The library that runs the network, with its version.")
    network_runtime_reason: str | None = Field(None, description="Why this library was chosen; see AKIN_RUNTIME.")
    index_device: str | None = Field(None, description="The device that searches the index: cpu or cuda.")
