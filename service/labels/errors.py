"""Errors of labels.

ServiceError
├── InvalidLabels       labels that cannot be read, or of which no row can be used
├── ImageNotFound       no image of the catalogue has the id
└── LabelsBeingCounted  many changes of the catalogue are not in the lists of labels yet
"""

from service.errors import ServiceError


class InvalidLabels(ServiceError):
    """Labels cannot be read, or none of their rows can be used."""

    code = "invalid-labels"


class ImageNotFound(ServiceError):
    """No image of the catalogue has this id."""

    code = "image-not-found"


class LabelsBeingCounted(ServiceError):
    """The lists of labels do not contain the latest changes of the catalogue yet."""

    code = "labels-being-counted"
