"""Labels with their history, operations, processes, evaluations, keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)
ACTIVE = sa.text("state IN ('queued', 'running')")


def upgrade() -> None:
    op.add_column("product_images", sa.Column("labelled_by", sa.String(200)))
    op.add_column("product_images", sa.Column("labelled_at", TIMESTAMP))
    op.add_column("product_images", sa.Column("label_source", sa.String(200)))
    op.create_table(
        "label_changes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("image_id", sa.String(40), sa.ForeignKey("product_images.id"), nullable=False),
        sa.Column("old_label", sa.String(200)),
        sa.Column("new_label", sa.String(200)),
        sa.Column("changed_by", sa.String(200), nullable=False),
        sa.Column("changed_at", TIMESTAMP, nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
    )
    op.create_index("ix_label_changes_image_id", "label_changes", ["image_id"])
    op.add_column("releases", sa.Column("operation_id", sa.String(40)))
    op.add_column("releases", sa.Column("retired_at", TIMESTAMP))
    op.create_table(
        "activation_events",
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("release_id", sa.String(60), nullable=False),
        sa.Column("previous_release_id", sa.String(60)),
        sa.Column("activated_at", TIMESTAMP, nullable=False),
        sa.Column("activated_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("operation_id", sa.String(40)),
    )
    op.create_index("ix_activation_events_operation_id", "activation_events", ["operation_id"])
    _create_operations()
    _create_others()


def _create_operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("step", sa.String(40)),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(200), unique=True),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("started_at", TIMESTAMP),
        sa.Column("updated_at", TIMESTAMP, nullable=False),
        sa.Column("finished_at", TIMESTAMP),
        sa.Column("cancel_requested_at", TIMESTAMP),
        sa.Column("worker_id", sa.String(40)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("progress", sa.JSON()),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'rejected', 'failed', 'cancelled')", name="operations_state"
        ),
    )
    op.create_index("ix_operations_created_at", "operations", ["created_at"])
    op.create_index(
        "operations_one_active", "operations", ["kind"], unique=True, sqlite_where=ACTIVE, postgresql_where=ACTIVE
    )


def _create_others() -> None:
    op.create_table(
        "processes",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=False),
        sa.Column("seen_at", TIMESTAMP, nullable=False),
        sa.Column("stopped_at", TIMESTAMP),
        sa.Column("release_id", sa.String(60)),
        sa.Column("refusal", sa.Text()),
    )
    op.create_index("ix_processes_seen_at", "processes", ["seen_at"])
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("evaluation_set_id", sa.String(64), nullable=False),
        sa.Column("space_id", sa.String(40), nullable=False),
        sa.Column("release_id", sa.String(60)),
        sa.Column("operation_id", sa.String(40)),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("num_queries", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
    )
    for column in ("evaluation_set_id", "release_id", "created_at"):
        op.create_index(f"ix_evaluations_{column}", "evaluations", [column])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
    )


def downgrade() -> None:
    for name in ("api_keys", "evaluations", "processes", "operations", "activation_events", "label_changes"):
        op.drop_table(name)
    for table, column in (
        ("releases", "retired_at"),
        ("releases", "operation_id"),
        ("product_images", "label_source"),
        ("product_images", "labelled_at"),
        ("product_images", "labelled_by"),
    ):
        op.drop_column(table, column)
