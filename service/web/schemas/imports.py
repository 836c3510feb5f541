"""Imports of uploads as they go over HTTP: their options."""

from typing import Literal

from pydantic import Field

from service.web.schemas.uploads import UploadOptions
from training.datasets.folders import Layout


class ImportOptions(UploadOptions):
    """Query parameters of an import of any kind."""

    layout: Layout = Field(
        "auto",
        description="How folders in an archive are read: `auto`, decided from the folders, or refused; `products`, "
        "each outermost folder is one product or class; `paths`, each folder with images is one, named by its path.",
    )
    note: str = Field("", max_length=1000, description="Free text, recorded with the operation.")


class LabelOptions(ImportOptions):
    """Query parameters of an upload of labels."""

    labelled_by: str | None = Field(
        None, description="Who set the labels, unless a row names somebody (default: the name of the key)."
    )
    source: str | None = Field(None, description="Where the labels come from, kept with each change (default: http).")


class AnyImportOptions(LabelOptions):
    """Query parameters of POST /v1/imports."""

    kind: Literal["catalogue", "labels"] = Field(
        "catalogue", description="What the upload contains: products with their images, or labels."
    )
