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

from collections.abc import Collection, Mapping
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
    """The data can be read, but not trained on or evaluated with.

    `cause` says what is wrong, `remedy` what to change about the data, and `advice` which settings help as well, by
    the setting that each sentence is about.
    """

    code = "unfit-data"

    def __init__(self, cause: str, remedy: str = "", advice: Mapping[str, str] | None = None) -> None:
        self.cause, self.remedy, self.advice = cause, remedy, dict(advice or {})
        remedies = ", or ".join(filter(None, [remedy, *self.advice.values()]))
        super().__init__(f"{cause}; {remedies}" if remedies else cause)

    def without_advice_on(self, settings: Collection[str]) -> "UnfitData":
        """Return the error without advice on settings that cannot be changed."""
        return UnfitData(
            self.cause, self.remedy, {name: text for name, text in self.advice.items() if name not in settings}
        )


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
