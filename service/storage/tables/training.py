"""What training does with each image: derived from products and images, and brought up to date by `change_seq`.

Nothing here is a source of truth: emptying `training_images` and `training_classes`, and setting the watermark of
`training_overview` to 0, computes everything again. States are numbers, so that of several images with the same bytes
the highest decides: 0 train, 1 validation, 2 test.
"""

from sqlalchemy import JSON, BigInteger, Double, Index, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from service.storage.tables.table import Table

# Labels are ordered by their code points on every database.
_LABEL = String(200).with_variant(String(200, collation="C"), "postgresql")


class TrainingImage(Table):
    """An image that is not deleted, with its effective label and its state."""

    __tablename__ = "training_images"
    __table_args__ = (
        Index("training_images_by_label", "label", "role", "state", "image_id", "drawn_state"),
        Index("training_images_by_state", "role", "state", "image_id"),
        Index("training_images_by_content", "sha256", "own_state", "state"),
        Index("training_images_by_label_change", "label", "change_seq"),
        Index("training_images_by_change", "change_seq"),
    )

    image_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    label: Mapped[str] = mapped_column(_LABEL)
    sha256: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(20))
    change_seq: Mapped[int] = mapped_column(BigInteger)
    drawn_state: Mapped[int] = mapped_column(SmallInteger)  # of an example by the hash of its content alone
    own_state: Mapped[int] = mapped_column(SmallInteger)  # by its class and its content
    state: Mapped[int] = mapped_column(SmallInteger)  # the highest of all images with the same content


class TrainingClass(Table):
    """The images of one label in numbers; a label without images has no row."""

    __tablename__ = "training_classes"

    label: Mapped[str] = mapped_column(_LABEL, primary_key=True)
    test_hash: Mapped[float] = mapped_column(Double)  # of the label, from 0 to below 1
    validation_hash: Mapped[float] = mapped_column(Double)
    num_catalogue: Mapped[int]
    num_examples: Mapped[int]
    num_train: Mapped[int]
    num_validation: Mapped[int]
    num_test: Mapped[int]
    num_drawn_test: Mapped[int]  # examples whose drawn state is test
    num_drawn_validation: Mapped[int]


class TrainingOverview(Table):
    """The one row (slot 1) that says which changes the other two tables contain."""

    __tablename__ = "training_overview"

    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    watermark: Mapped[int] = mapped_column(BigInteger)
    rule: Mapped[str] = mapped_column(String(200))  # the rule and the shares that the states follow
    choices: Mapped[dict[str, object]] = mapped_column(JSON)  # what states depend on beyond a class and an image
    pending: Mapped[list[dict[str, str]]] = mapped_column(JSON)  # groups of images to compute again
    totals: Mapped[dict[str, int]] = mapped_column(JSON)  # sums over all classes
