"""Labels as they go over HTTP."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.labels.applying import LabelReport
from service.labels.listing import ClassCounts, CountsPage, LabelFacts
from service.storage.database import in_utc
from service.storage.tables.catalogue import LabelChange
from service.web.schemas.uploads import FIRST_ERRORS, RowProblem, row_problems

ADMIN_MEDIA_PATH = "/v1/admin/media"
MAX_PAGE = 1000


class LabelRowView(BaseModel):
    """One row: of an image of the catalogue (`image_id` or `sha256`), or of a new image (`image_base64`)."""

    model_config = ConfigDict(extra="forbid")

    image_id: str | None = None
    sha256: str | None = Field(None, description="Of the image's bytes; give product_id if several products have it.")
    image_base64: str | None = Field(None, description="A new example, with product_id, label or both.")
    product_id: str | None = None
    label: str | None = Field(None, description="Empty or null: the label of the product.")
    labelled_by: str | None = None


class LabelReportView(BaseModel):
    """What an upload of labels did, or would do. Each row is counted once."""

    layout: str
    dry_run: bool
    num_added: int
    num_changed: int
    num_unchanged: int
    num_failed: int
    num_ignored: int = Field(description="Files that are not images, and rows without labels.")
    seconds: float
    errors: list[RowProblem] = Field(description=FIRST_ERRORS)

    @classmethod
    def of(cls, report: LabelReport) -> "LabelReportView":
        """Describe a report."""
        return cls.model_validate({**report.to_json(), "errors": row_problems(report.to_json()["errors"])})


class LabelView(BaseModel):
    """An image and its label."""

    image_id: str
    product_id: str
    label: str
    role: str
    state: str = Field(description="What training does with it: train, validation or test.")
    is_new: bool = Field(description="Added or changed since the active release was built.")
    labelled_by: str | None
    labelled_at: datetime | None
    label_source: str | None
    image_url: str

    @classmethod
    def of(cls, facts: LabelFacts, media_root: str) -> "LabelView":
        """Describe an image; `media_root` is the path under which images are served."""
        return cls.model_validate(_label_values(facts, media_root))


class LabelPage(BaseModel):
    """Images ordered by id."""

    labels: list[LabelView]
    next: str | None = Field(description="Send it as `after` for the next page; null on the last page.")


class LabelChangeView(BaseModel):
    """One change of a label; null stands for the label of the product."""

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
    """An image with every change of its label, oldest first."""

    changes: list[LabelChangeView]

    @classmethod
    def with_changes(cls, facts: LabelFacts, changes: list[LabelChange], media_root: str) -> "LabelHistory":
        """Describe an image and its changes."""
        values = _label_values(facts, media_root)
        return cls.model_validate({**values, "changes": [LabelChangeView.of(change) for change in changes]})


class LabelCounts(BaseModel):
    """Numbers of images."""

    num_images: int
    num_catalogue: int
    num_examples: int
    num_train: int
    num_validation: int
    num_test: int
    num_new: int = Field(description="Added or changed since the active release was built.")

    @classmethod
    def of(cls, counts: ClassCounts) -> "LabelCounts":
        """Describe counts."""
        return cls(**asdict(counts))


class ClassCountsView(LabelCounts):
    """Numbers of images of one class."""

    label: str

    @classmethod
    def of_class(cls, label: str, counts: ClassCounts) -> "ClassCountsView":
        """Describe the counts of a class."""
        return cls(label=label, **asdict(counts))


class LabelCountsPage(BaseModel):
    """Counts of all images, and of classes ordered by label."""

    watermark: int = Field(description="The number of the last change of the catalogue.")
    release_watermark: int = Field(description="The last change that the active release contains; 0 if none is active.")
    num_classes: int
    total: LabelCounts
    classes: list[ClassCountsView]
    next: str | None = Field(description="Send it as `after` for the next page; null on the last page.")

    @classmethod
    def of(cls, page: CountsPage) -> "LabelCountsPage":
        """Describe a page of counts."""
        return cls(
            watermark=page.watermark,
            release_watermark=page.release_watermark,
            num_classes=page.num_classes,
            total=LabelCounts.of(page.total),
            classes=[ClassCountsView.of_class(label, counts) for label, counts in page.classes.items()],
            next=page.next,
        )


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
