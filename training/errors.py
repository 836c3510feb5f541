"""The errors of training.

TrainingError
├── InvalidDataset           the training data cannot be read or have an unknown layout
│   ├── InvalidSnapshot      a snapshot's files do not match its manifest
│   └── UnfitData            the data can be read but not used: too few classes, an empty split
├── InvalidConfig            an unknown setting or an invalid value
├── InvalidRun               a run's folder cannot be resumed or read
├── InvalidEmbeddings        embeddings or labels have invalid shapes or values
├── InvalidEvaluation        a file of an evaluation is damaged or missing
├── TrainingDiverged         the loss became NaN or infinite
└── DeviceLost               the accelerator failed or ran out of memory
"""

from typing import ClassVar


class TrainingError(Exception):
    """Base class of the errors of training; messages are safe to show to a client."""

    code: ClassVar[str] = "training-error"


class InvalidDataset(TrainingError):
    """The training data are missing, damaged or of an unknown layout."""

    code = "invalid-dataset"


class InvalidSnapshot(InvalidDataset):
    """A snapshot's files do not match its manifest."""

    code = "invalid-snapshot"


class UnfitData(InvalidDataset):
    """The data can be read, but not trained on or evaluated with."""

    code = "unfit-data"


class InvalidConfig(TrainingError):
    """A setting is unknown or has an invalid value."""

    code = "invalid-config"


class InvalidRun(TrainingError):
    """A run's folder cannot be resumed or read."""

    code = "invalid-run"


class InvalidEmbeddings(TrainingError):
    """Embeddings or labels have invalid shapes or values."""

    code = "invalid-embeddings"


class InvalidEvaluation(TrainingError):
    """A file of an evaluation set or measurement is damaged or missing."""

    code = "invalid-evaluation"


class TrainingDiverged(TrainingError):
    """The loss or the weights became NaN or infinite."""

    code = "training-diverged"


class DeviceLost(TrainingError):
    """The accelerator failed or ran out of memory."""

    code = "device-lost"
