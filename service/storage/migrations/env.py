"""Entry point of Alembic; runs on the connection that service.storage.migration passes in."""

from alembic import context

from service.storage.tables import (  # noqa: F401  # each defines its tables on import
    access,
    catalogue,
    embeddings,
    evaluations,
    operations,
    processes,
    releases,
    training,
)
from service.storage.tables.table import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
