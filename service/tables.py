"""Tables of the database.

Two invariants that every reader relies on:

* `change_seq` is taken from the one row of `change_counter` inside the writing transaction. That row stays locked
  until the commit, so on every database the order of the numbers is the order in which changes become visible, and
  "all changes up to n" is a snapshot.
* Nothing is deleted from products and images; `deleted_at` marks what is gone, under a new `change_seq`.
"""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

CATALOGUE = "catalogue"  # indexed and shown in results
EXAMPLE = "example"  # trains and evaluates, is never returned
ROLES = (CATALOGUE, EXAMPLE)

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, REJECTED, FAILED, CANCELLED = "succeeded", "rejected", "failed", "cancelled"
OPERATION_STATES = (QUEUED, RUNNING, SUCCEEDED, REJECTED, FAILED, CANCELLED)

_Timestamp = DateTime(timezone=True)


class Table(DeclarativeBase):
    """Base of all tables."""


class Product(Table):
    """A thing that the shop sells. Its label is its id unless another is given."""

    __tablename__ = "products"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    title: Mapped[str] = mapped_column(String(1000))
    attributes: Mapped[dict[str, object]] = mapped_column(JSON)
    label: Mapped[str | None] = mapped_column(String(200))
    change_seq: Mapped[int] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    deleted_at: Mapped[datetime | None] = mapped_column(_Timestamp)


class ProductImage(Table):
    """An image of a product; two products may share the same bytes. Its label is the product's unless given."""

    __tablename__ = "product_images"
    __table_args__ = (
        CheckConstraint("role IN ('catalogue', 'example')", name="product_images_role"),
        Index("product_images_by_product", "product_id"),
        Index("product_images_by_content", "sha256"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    sha256: Mapped[str] = mapped_column(ForeignKey("media_objects.sha256"))
    role: Mapped[str] = mapped_column(String(20))
    label: Mapped[str | None] = mapped_column(String(200))
    change_seq: Mapped[int] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    deleted_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    # Who said last what it shows, when, and on what ground; None: it came with an import.
    labelled_by: Mapped[str | None] = mapped_column(String(200))
    labelled_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    label_source: Mapped[str | None] = mapped_column(String(200))


class LabelChange(Table):
    """One change of an image's label, kept for ever: labels decide what is learnt."""

    __tablename__ = "label_changes"

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[str] = mapped_column(ForeignKey("product_images.id"), index=True)
    old_label: Mapped[str | None] = mapped_column(String(200))  # None: that of the product, or a new image
    new_label: Mapped[str | None] = mapped_column(String(200))  # None: that of the product
    changed_by: Mapped[str] = mapped_column(String(200))
    changed_at: Mapped[datetime] = mapped_column(_Timestamp)
    source: Mapped[str] = mapped_column(String(200))


class MediaObject(Table):
    """The bytes of an image, stored once whoever shows it."""

    __tablename__ = "media_objects"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    extension: Mapped[str] = mapped_column(String(10))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(_Timestamp)


class StoredEmbedding(Table):
    """The embedding of some bytes in one embedding space: little-endian float32."""

    __tablename__ = "embeddings"

    space_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    embedding: Mapped[bytes] = mapped_column(LargeBinary)


class Release(Table):
    """A published release; its directory holds everything else."""

    __tablename__ = "releases"

    id: Mapped[str] = mapped_column(String(60), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    space_id: Mapped[str] = mapped_column(String(40))
    index_id: Mapped[str] = mapped_column(String(40))
    watermark: Mapped[int] = mapped_column(BigInteger)
    num_products: Mapped[int]
    num_images: Mapped[int]
    operation_id: Mapped[str | None] = mapped_column(String(40))  # what made it, unless a command did
    retired_at: Mapped[datetime | None] = mapped_column(_Timestamp)  # its files are being removed


class Activation(Table):
    """The one row (slot 1) that says which release is served; `version` counts its changes."""

    __tablename__ = "activation"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int]
    release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    previous_release_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    activated_at: Mapped[datetime | None] = mapped_column(_Timestamp)


class ActivationEvent(Table):
    """One activation or rollback, kept for ever."""

    __tablename__ = "activation_events"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # that of the activation it made
    # No foreign keys: what happened outlasts a release that was retired.
    release_id: Mapped[str] = mapped_column(String(60))
    previous_release_id: Mapped[str | None] = mapped_column(String(60))
    activated_at: Mapped[datetime] = mapped_column(_Timestamp)
    activated_by: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(String(1000))
    operation_id: Mapped[str | None] = mapped_column(String(40), index=True)


class Operation(Table):
    """Work that outlasts a request: its row is what was asked for, how far it is, and how it ended."""

    __tablename__ = "operations"
    __table_args__ = (
        # At most one of a kind is under way; the database itself sees to it, whoever asks at the same time.
        Index(
            "operations_one_active",
            "kind",
            unique=True,
            sqlite_where=text("state IN ('queued', 'running')"),
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
        CheckConstraint(f"state IN {OPERATION_STATES}", name="operations_state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    step: Mapped[str | None] = mapped_column(String(40))
    request: Mapped[dict[str, object]] = mapped_column(JSON)
    request_sha256: Mapped[str] = mapped_column(String(64))
    idempotency_key: Mapped[str | None] = mapped_column(String(200), unique=True)
    created_by: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[datetime] = mapped_column(_Timestamp, index=True)
    started_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    updated_at: Mapped[datetime] = mapped_column(_Timestamp)
    finished_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    worker_id: Mapped[str | None] = mapped_column(String(40))  # the process that may write to this row
    attempts: Mapped[int]  # how often a worker began or took it up
    progress: Mapped[dict[str, object] | None] = mapped_column(JSON)
    steps: Mapped[list[dict[str, object]]] = mapped_column(JSON)  # those begun: name, times, what they found
    result: Mapped[dict[str, object]] = mapped_column(JSON)  # what is known so far, by name
    error: Mapped[dict[str, object] | None] = mapped_column(JSON)


class Process(Table):
    """A process of this installation that lives, or did: an API server or a worker."""

    __tablename__ = "processes"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(_Timestamp)
    seen_at: Mapped[datetime] = mapped_column(_Timestamp, index=True)
    stopped_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    release_id: Mapped[str | None] = mapped_column(String(60))  # what an API server answers from
    refusal: Mapped[str | None] = mapped_column(Text)  # why it does not answer from the active release


class Evaluation(Table):
    """One model measured on one evaluation set; each query's outcome lies in a file of the same id."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    evaluation_set_id: Mapped[str] = mapped_column(String(64), index=True)
    space_id: Mapped[str] = mapped_column(String(40))
    release_id: Mapped[str | None] = mapped_column(String(60), index=True)
    operation_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(_Timestamp, index=True)
    num_queries: Mapped[int]
    metrics: Mapped[dict[str, object]] = mapped_column(JSON)  # by part, then by name


class APIKey(Table):
    """A key to this installation; only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(_Timestamp)
    created_by: Mapped[str | None] = mapped_column(String(200))  # None: the first start made it
    expires_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    revoked_at: Mapped[datetime | None] = mapped_column(_Timestamp)
    last_used_at: Mapped[datetime | None] = mapped_column(_Timestamp)  # within a minute or so
    # What a rotation replaced goes on for a while, so that its users can change over one by one.
    previous_sha256: Mapped[str | None] = mapped_column(String(64))
    previous_expires_at: Mapped[datetime | None] = mapped_column(_Timestamp)


class AuditEvent(Table):
    """Something that changed this installation, or was refused: who, what, when, from where, and how it ended."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(_Timestamp, index=True)
    actor: Mapped[str | None] = mapped_column(String(200), index=True)  # None: nobody whom we know
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(200))  # "POST /v1/admin/keys/{name}:revoke", "akin keys revoke"
    target: Mapped[str] = mapped_column(String(500))  # the path as it was sent, or the command's argument
    address: Mapped[str] = mapped_column(String(200))  # of the client, or the host of a terminal
    request_id: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None]  # of the answer; None: a command
    outcome: Mapped[str] = mapped_column(String(100))  # "succeeded", or the code of the problem


class ChangeCounter(Table):
    """The one row (slot 1) that change numbers are taken from."""

    __tablename__ = "change_counter"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)
