"""Errors of the catalogue.

ServiceError
└── CatalogueError
    ├── InvalidImportSource  the source of an import cannot be read, or none of its rows can be used
    ├── ProductNotFound
    ├── InvalidArchive       damaged, too large when unpacked, or with entries that are refused
    └── EmptyCatalogue       there is no image to build an index from
"""

from service.errors import ServiceError


class CatalogueError(ServiceError):
    """Base of the catalogue's errors."""

    code = "catalogue-error"


class InvalidImportSource(CatalogueError):
    """The source of an import is missing, has no known layout, or has no usable row."""

    code = "invalid-import-source"


class ProductNotFound(CatalogueError):
    """No product has this id."""

    code = "product-not-found"


class InvalidArchive(CatalogueError):
    """An archive is damaged, too large when unpacked, or has entries that are refused."""

    code = "invalid-archive"


class EmptyCatalogue(CatalogueError):
    """The catalogue has no image to index."""

    code = "empty-catalogue"
