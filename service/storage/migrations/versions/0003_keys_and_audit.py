"""Keys that expire, are revoked and rotated; the audit log."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)
KEY_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "created_by": sa.String(200),
    "expires_at": TIMESTAMP,
    "revoked_at": TIMESTAMP,
    "last_used_at": TIMESTAMP,
    "previous_sha256": sa.String(64),
    "previous_expires_at": TIMESTAMP,
}


def upgrade() -> None:
    for name, kind in KEY_COLUMNS.items():
        op.add_column("api_keys", sa.Column(name, kind))
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at", TIMESTAMP, nullable=False),
        sa.Column("actor", sa.String(200)),
        sa.Column("key_id", sa.String(40)),
        sa.Column("action", sa.String(200), nullable=False),
        sa.Column("target", sa.String(500), nullable=False),
        sa.Column("address", sa.String(200), nullable=False),
        sa.Column("request_id", sa.String(64)),
        sa.Column("status", sa.Integer()),
        sa.Column("outcome", sa.String(100), nullable=False),
    )
    op.create_index("ix_audit_events_at", "audit_events", ["at"])
    op.create_index("ix_audit_events_actor", "audit_events", ["actor"])


def downgrade() -> None:
    op.drop_table("audit_events")
    # A key that was revoked or has expired would be good again.
    op.execute("DELETE FROM api_keys WHERE revoked_at IS NOT NULL OR expires_at IS NOT NULL")
    for name in reversed(KEY_COLUMNS):
        op.drop_column("api_keys", name)
