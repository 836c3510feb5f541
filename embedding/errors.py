"""Errors between image bytes and an embedding.

EmbeddingError
├── InvalidImage                 bytes that cannot be decoded as an image
│   ├── UnsupportedImageFormat   a format or colour mode outside the allow-list
│   └── ImageTooLarge            more bytes or pixels than the limits allow
├── InvalidArtifact              a directory whose files do not match its manifest
│   └── InvalidCheckpoint        a checkpoint that cannot be built or does not reproduce its golden samples
├── UnknownBackbone              a backbone name that no library provides
├── MissingWeights               pretrained weights that are not installed and cannot be downloaded
├── UnsupportedDevice            a device or precision that is not available
├── UnsupportedRuntime           a runtime that is not installed, or that cannot run the network
└── ExportFailed                 a network that cannot be exported for another runtime
"""

from typing import ClassVar


class EmbeddingError(Exception):
    """Base of all errors of this package; the message is safe to show to clients."""

    code: ClassVar[str] = "embedding-error"


class InvalidImage(EmbeddingError):
    """The bytes cannot be decoded as an image."""

    code = "invalid-image"


class UnsupportedImageFormat(InvalidImage):
    """The image has a format or colour mode outside the allow-list."""

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
    """No installed library provides a backbone of that name."""

    code = "unknown-backbone"


class MissingWeights(EmbeddingError):
    """Pretrained weights are not installed and cannot be downloaded."""

    code = "missing-weights"


class UnsupportedDevice(EmbeddingError):
    """The device, or the precision on this device, is not available."""

    code = "unsupported-device"


class UnsupportedRuntime(EmbeddingError):
    """The runtime is not installed, or cannot run this network on this device."""

    code = "unsupported-runtime"


class ExportFailed(EmbeddingError):
    """The network cannot be exported for another runtime, or the exported one computes something else."""

    code = "export-failed"
