"""Catalogue, stored embeddings and releases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "change_counter",
        sa.Column("slot", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )
    op.execute("INSERT INTO change_counter (slot, value) VALUES (1, 0)")
    op.create_table(
        "products",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("title", sa.String(1000), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("label", sa.String(200)),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("deleted_at", TIMESTAMP),
    )
    op.create_index("ix_products_change_seq", "products", ["change_seq"])
    op.create_table(
        "media_objects",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("extension", sa.String(10), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
    )
    op.create_table(
        "product_images",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("product_id", sa.String(200), sa.ForeignKey("products.id"), nullable=False),
        sa.Column("sha256", sa.String(64), sa.ForeignKey("media_objects.sha256"), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("label", sa.String(200)),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("deleted_at", TIMESTAMP),
        sa.CheckConstraint("role IN ('catalogue', 'example')", name="product_images_role"),
    )
    op.create_index("product_images_by_product", "product_images", ["product_id"])
    op.create_index("product_images_by_content", "product_images", ["sha256"])
    op.create_index("ix_product_images_change_seq", "product_images", ["change_seq"])
    op.create_table(
        "embeddings",
        sa.Column("space_id", sa.String(40), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.String(60), primary_key=True),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("space_id", sa.String(40), nullable=False),
        sa.Column("index_id", sa.String(40), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("num_products", sa.Integer(), nullable=False),
        sa.Column("num_images", sa.Integer(), nullable=False),
    )
    op.create_table(
        "activation",
        sa.Column("slot", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("release_id", sa.String(60), sa.ForeignKey("releases.id")),
        sa.Column("previous_release_id", sa.String(60), sa.ForeignKey("releases.id")),
        sa.Column("activated_at", TIMESTAMP),
    )
    op.execute("INSERT INTO activation (slot, version) VALUES (1, 0)")


def downgrade() -> None:
    for name in ("activation", "releases", "embeddings", "product_images", "media_objects", "products"):
        op.drop_table(name)
    op.drop_table("change_counter")
