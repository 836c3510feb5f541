"""Imports as operations, any number at once; their rows that could not be used."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEX = "operations_one_active"
ACTIVE = "state IN ('queued', 'running')"
OF_ONE_KIND = f"{ACTIVE} AND kind IN ('retrain', 'build')"


def upgrade() -> None:
    op.drop_index(INDEX, "operations")
    _create_index(OF_ONE_KIND)
    op.create_table(
        "operation_errors",
        sa.Column("operation_id", sa.String(40), sa.ForeignKey("operations.id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("operation_errors")
    # The former version knows no such kinds, and admits one active operation of each kind.
    op.execute("DELETE FROM operations WHERE kind IN ('import', 'labels')")
    op.drop_index(INDEX, "operations")
    _create_index(ACTIVE)


def _create_index(condition: str) -> None:
    where = sa.text(condition)
    op.create_index(INDEX, "operations", ["kind"], unique=True, sqlite_where=where, postgresql_where=where)
