"""The base of all tables, and the type of their times."""

from sqlalchemy import DateTime
from sqlalchemy.orm import DeclarativeBase

Timestamp = DateTime(timezone=True)
# The revision of the migrations that creates the tables as they are declared here.
TABLES_REVISION = "0005"


class Table(DeclarativeBase):
    """Base of all tables."""
