"""Evaluations."""

from datetime import datetime

from sqlalchemy import JSON, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table, Timestamp


class Evaluation(Table):
    """One model measured on one evaluation set; a file of the same id has the result of each query."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    evaluation_set_id: Mapped[str] = mapped_column(String(64), index=True)
    space_id: Mapped[str] = mapped_column(String(40))
    release_id: Mapped[str | None] = mapped_column(String(60), index=True)
    operation_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(Timestamp, index=True)
    num_queries: Mapped[int]
    metrics: Mapped[dict[str, object]] = mapped_column(JSON)  # by part, then by name
