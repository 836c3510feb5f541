"""Alembic's entry: runs on the connection that service.database hands over."""

from alembic import context

from service.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
