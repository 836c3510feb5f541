"""Releases, the activation, its history, and evaluations."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp


class Release(Table):
    """A published release; its directory holds everything else."""

    __tablename__ = "releases"

    id: Mapped[str] = mapped_column(String(60), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    space_id: Mapped[str] = mapped_column(String(40))
    index_id: Mapped[str] = mapped_column(String(40))
    watermark: Mapped[int] = mapped_column(BigInteger)
    num_products: Mapped[int]
    num_images: Mapped[int]
    operation_id: Mapped[str | None] = mapped_column(String(40))  # the operation that built it; None: a command
    retired_at: Mapped[datetime | None] = mapped_column(Timestamp)  # its files are removed


class Activation(Table):
    """The one row (slot 1) that says which release is served; `version` counts its changes."""

    __tablename__ = "activation"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    previous_release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    activated_at: Mapped[datetime | None] = mapped_column(Timestamp)


class ActivationEvent(Table):
    """One activation or rollback, never deleted."""

    __tablename__ = "activation_events"

    version: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False
    )  # the version of the activation that it led to
    # No foreign keys: the history outlasts retired releases.
    release_id: Mapped[str] = mapped_column(String(60))
    previous_release_id: Mapped[str | None] = mapped_column(String(60))
    activated_at: Mapped[datetime] = mapped_column(Timestamp)
    activated_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(String(1000))
    operation_id: Mapped[str | None] = mapped_column(String(40), index=True)
