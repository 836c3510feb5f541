"""What can go wrong between image bytes and an embedding.

EmbeddingError
├── InvalidImage                 the bytes are no image that can be read
│   ├── UnsupportedImageFormat   a format (or colour mode) outside the allow-list
│   └── ImageTooLarge            more bytes or pixels than the limits allow
├── InvalidArtifact              a directory whose files are not what its manifest says
│   └── InvalidCheckpoint        a checkpoint that does not reproduce its golden samples, or cannot be built
├── UnknownBackbone              a name that no library here knows
├── MissingWeights               pretrained weights that are not on this machine
└── UnsupportedDevice            a device or precision that this machine does not have
"""

from typing import ClassVar


class EmbeddingError(Exception):
    """Base of every error of this room; its message is safe to show to a client."""

    code: ClassVar[str] = "embedding-error"


class InvalidImage(EmbeddingError):
    """The bytes cannot be decoded as an image."""

    code = "invalid-image"


class UnsupportedImageFormat(InvalidImage):
    """The image has a format or colour mode that is not on the allow-list."""

    code = "unsupported-image-format"


class ImageTooLarge(InvalidImage):
    """The image has more bytes or pixels than the limits allow."""

    code = "image-too-large"


class InvalidArtifact(EmbeddingError):
    """An artifact directory is incomplete, damaged or of another kind."""

    code = "invalid-artifact"


class InvalidCheckpoint(InvalidArtifact):
    """A checkpoint cannot be built or does not reproduce its golden samples."""

    code = "invalid-checkpoint"


class UnknownBackbone(EmbeddingError):
    """No library here knows a backbone of that name."""

    code = "unknown-backbone"


class MissingWeights(EmbeddingError):
    """Pretrained weights are neither installed nor to be downloaded."""

    code = "missing-weights"


class UnsupportedDevice(EmbeddingError):
    """This machine lacks the device, or the device lacks the precision."""

    code = "unsupported-device"
