"""The processes of an installation."""

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp


class Process(Table):
    """A running or former process of this installation: an API server or a worker."""

    __tablename__ = "processes"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(Timestamp)
    seen_at: Mapped[datetime] = mapped_column(Timestamp, index=True)
    stopped_at: Mapped[datetime | None] = mapped_column(Timestamp)
    release_id: Mapped[str | None] = mapped_column(String(60))  # the release that an API server serves
    refusal: Mapped[str | None] = mapped_column(Text)  # why it does not serve the active release
