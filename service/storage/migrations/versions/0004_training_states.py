"""What training does with each image, and indexes on labels."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LABEL = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
TABLES = ("training_overview", "training_classes", "training_images")
INDEXES = {
    "products_by_label": ("products", ["label"]),
    "products_by_deletion": ("products", ["deleted_at"]),
    "product_images_by_label": ("product_images", ["label", "product_id"]),
    "product_images_by_role": ("product_images", ["role", "deleted_at"]),
}


def upgrade() -> None:
    op.create_table(
        "training_images",
        sa.Column("image_id", sa.String(40), primary_key=True),
        sa.Column("label", LABEL, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("drawn_state", sa.SmallInteger(), nullable=False),
        sa.Column("own_state", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
    )
    for name, columns in {
        "by_label": ["label", "role", "state", "image_id", "drawn_state"],
        "by_state": ["role", "state", "image_id"],
        "by_content": ["sha256", "own_state", "state"],
        "by_label_change": ["label", "change_seq"],
        "by_change": ["change_seq"],
    }.items():
        op.create_index(f"training_images_{name}", "training_images", columns)
    op.create_table(
        "training_classes",
        sa.Column("label", LABEL, primary_key=True),
        sa.Column("test_hash", sa.Double(), nullable=False),
        sa.Column("validation_hash", sa.Double(), nullable=False),
        *(
            sa.Column(f"num_{name}", sa.Integer(), nullable=False)
            for name in (
                "catalogue", "examples", "train", "validation", "test", "drawn_test", "drawn_validation",
            )
        ),
    )  # fmt: skip
    op.create_table(
        "training_overview",
        sa.Column("slot", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("rule", sa.String(200), nullable=False),
        *(sa.Column(name, sa.JSON(), nullable=False) for name in ("choices", "pending", "totals")),
    )
    op.execute(
        "INSERT INTO training_overview (slot, watermark, rule, choices, pending, totals) "
        "VALUES (1, 0, '', '{}', '[]', '{}')"
    )
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    for name in TABLES:
        op.drop_table(name)
