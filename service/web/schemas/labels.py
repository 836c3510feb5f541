"""Labels and the catalogue as they go over HTTP."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.labels.applying import LabelReport
from service.labels.listing import ClassCounts, LabelFacts
from service.storage.database import in_utc
from service.storage.tables.catalogue import LabelChange
from service.web.schemas.rows import FIRST_ERRORS, RowProblem, row_problems

MAX_PAGE = 1000


class LabelRowView(BaseModel):
    """One row: of an image that is there (`image_id` or `sha256`), or of a new one (`image_base64`)."""

    model_config = ConfigDict(extra="forbid")

    image_id: str | None = None
    sha256: str | None = Field(None, description="Of the image's bytes; with product_id where several have it.")
    image_base64: str | None = Field(None, description="A new example, with product_id, label or both.")
    product_id: str | None = None
    label: str | None = Field(None, description="Empty or null: that of the product again.")
    labelled_by: str | None = None


class LabelReportView(BaseModel):
    """What labels did, or would do; each row is counted once."""

    layout: str
    dry_run: bool
    num_added: int
    num_changed: int
    num_unchanged: int
    num_failed: int
    num_ignored: int = Field(description="Files that are no images, and rows that say nothing of labels.")
    seconds: float
    errors: list[RowProblem] = Field(description=FIRST_ERRORS)

    @classmethod
    def of(cls, report: LabelReport) -> "LabelReportView":
        """Describe a report."""
        return cls.model_validate({**report.to_json(), "errors": row_problems(report.to_json()["errors"])})


class LabelView(BaseModel):
    """An image and what it shows."""

    image_id: str
    product_id: str
    label: str
    role: str
    state: str = Field(description="What training does with it: train, validation or test.")
    is_new: bool = Field(description="Came or changed since the catalogue that the active release shows.")
    labelled_by: str | None
    labelled_at: datetime | None
    label_source: str | None
    image_url: str

    @classmethod
    def of(cls, facts: LabelFacts, media_root: str) -> "LabelView":
        """Describe an image; `media_root` is the path under which images are served."""
        return cls.model_validate(_label_values(facts, media_root))


class LabelPage(BaseModel):
    """Images in the order of their ids."""

    labels: list[LabelView]
    next: str | None = Field(description="Send it as `after` for the next page; null: this is the last.")


class LabelChangeView(BaseModel):
    """One change of a label; null stands for that of the product."""

    old_label: str | None
    new_label: str | None
    changed_by: str
    changed_at: datetime
    source: str

    @classmethod
    def of(cls, change: LabelChange) -> "LabelChangeView":
        """Describe a change."""
        return cls(
            old_label=change.old_label,
            new_label=change.new_label,
            changed_by=change.changed_by,
            changed_at=in_utc(change.changed_at),
            source=change.source,
        )


class LabelHistory(LabelView):
    """An image with every change of its label, the oldest first."""

    changes: list[LabelChangeView]

    @classmethod
    def with_changes(cls, facts: LabelFacts, changes: list[LabelChange], media_root: str) -> "LabelHistory":
        """Describe an image and its changes."""
        values = _label_values(facts, media_root)
        return cls.model_validate({**values, "changes": [LabelChangeView.of(change) for change in changes]})


class LabelCounts(BaseModel):
    """How many images."""

    num_images: int
    num_catalogue: int
    num_examples: int
    num_train: int
    num_validation: int
    num_test: int
    num_new: int = Field(description="Came or changed since the catalogue that the active release shows.")

    @classmethod
    def of(cls, counts: ClassCounts) -> "LabelCounts":
        """Describe counts."""
        return cls(**asdict(counts))


class ClassCountsView(LabelCounts):
    """How many images of one class."""

    label: str

    @classmethod
    def of_class(cls, label: str, counts: ClassCounts) -> "ClassCountsView":
        """Describe the counts of a class."""
        return cls(label=label, **asdict(counts))


class LabelCountsPage(BaseModel):
    """Counts of all images, and of classes in the order of their labels."""

    watermark: int = Field(description="The number of the last change of the catalogue.")
    release_watermark: int = Field(description="That of the active release; 0: none is active.")
    num_classes: int
    total: LabelCounts
    classes: list[ClassCountsView]
    next: str | None = Field(description="Send it as `after` for the next page; null: this is the last.")


def _label_values(facts: LabelFacts, media_root: str) -> dict[str, Any]:
    image = facts.image
    return {
        "image_id": image.image_id,
        "product_id": image.product_id,
        "label": image.label,
        "role": image.role,
        "state": facts.state,
        "is_new": facts.is_new,
        "labelled_by": facts.labelled_by,
        "labelled_at": facts.labelled_at,
        "label_source": facts.label_source,
        "image_url": f"{media_root}/{image.media_name}",
    }
