"""What can go wrong with the catalogue.

ServiceError
└── CatalogueError
    ├── InvalidImportSource  what is to be imported cannot be read at all
    ├── ProductNotFound
    ├── InvalidArchive       an archive that is damaged, or would write where it may not
    └── EmptyCatalogue       nothing to build an index from
"""

from service.errors import ServiceError


class CatalogueError(ServiceError):
    """Something is wrong with the catalogue."""

    code = "catalogue-error"


class InvalidImportSource(CatalogueError):
    """A path to import from is missing or has no layout that Akin knows."""

    code = "invalid-import-source"


class ProductNotFound(CatalogueError):
    """No product has this id."""

    code = "product-not-found"


class InvalidArchive(CatalogueError):
    """An archive is damaged, too large when unpacked, or holds paths that lead out of it."""

    code = "invalid-archive"


class EmptyCatalogue(CatalogueError):
    """The catalogue has no image to index."""

    code = "empty-catalogue"
