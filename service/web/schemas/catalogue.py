"""Products as they go over HTTP."""

from pydantic import BaseModel, Field


class CatalogueCountsView(BaseModel):
    """Numbers of products and images."""

    num_products: int
    num_images: dict[str, int] = Field(description="By role.")
    watermark: int = Field(description="The number of the last change.")


class RemovedProduct(BaseModel):
    """A product that was removed with its images."""

    product_id: str
    num_images: int
