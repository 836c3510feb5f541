"""Imports and products as they go over HTTP."""

from pydantic import BaseModel, Field

from service.catalogue.reports import ImportReport
from service.web.schemas.uploads import FIRST_ERRORS, RowProblem, row_problems


class ImportReportView(BaseModel):
    """What an import did, or would do. Each row is counted once."""

    layout: str
    dry_run: bool
    num_products_added: int
    num_products_updated: int
    num_images_added: int
    num_images_updated: int
    num_unchanged: int
    num_failed: int
    num_ignored: int = Field(description="Files that are not images.")
    seconds: float
    errors: list[RowProblem] = Field(description=FIRST_ERRORS)

    @classmethod
    def of(cls, report: ImportReport) -> "ImportReportView":
        """Describe a report."""
        values = report.to_json()
        return cls.model_validate(
            {**values, "num_failed": len(report.errors), "errors": row_problems(values["errors"])}
        )


class CatalogueCountsView(BaseModel):
    """Numbers of products and images."""

    num_products: int
    num_images: dict[str, int] = Field(description="By role.")
    watermark: int = Field(description="The number of the last change.")


class RemovedProduct(BaseModel):
    """A product that was removed with its images."""

    product_id: str
    num_images: int
