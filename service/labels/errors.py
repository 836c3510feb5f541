"""Errors of labels.

ServiceError
├── InvalidLabels  labels that cannot be read, or of which no row can be used
└── ImageNotFound  no image of the catalogue has the id
"""

from service.errors import ServiceError


class InvalidLabels(ServiceError):
    """Labels cannot be read, or none of their rows can be used."""

    code = "invalid-labels"


class ImageNotFound(ServiceError):
    """No image of the catalogue has this id."""

    code = "image-not-found"
