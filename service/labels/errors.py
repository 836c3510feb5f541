"""What can go wrong with labels.

ServiceError
├── InvalidLabels  rows of labels of which none can be used, or a file of them that cannot be read
└── ImageNotFound  no image of the catalogue has the id
"""

from service.errors import ServiceError


class InvalidLabels(ServiceError):
    """Labels of which none can be used, or a file of them that cannot be read at all."""

    code = "invalid-labels"


class ImageNotFound(ServiceError):
    """No image of the catalogue has this id."""

    code = "image-not-found"
