"""The base of all tables, and the type of their times."""

from sqlalchemy import DateTime
from sqlalchemy.orm import DeclarativeBase

Timestamp = DateTime(timezone=True)


class Table(DeclarativeBase):
    """Base of all tables."""
