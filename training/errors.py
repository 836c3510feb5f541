"""What can go wrong between labelled images and a checkpoint.

TrainingError
├── InvalidDataset           what is to be trained on cannot be read, or has no layout that is known
│   ├── InvalidSnapshot      a snapshot whose files are not what its manifest says
│   └── UnfitData            it can be read but not trained on: too few classes, an empty split, broken rows
├── InvalidConfig            a knob that does not exist, or has a value that cannot be used
├── InvalidRun               a run's folder that cannot be continued or read
├── InvalidEmbeddings        what is to be evaluated has wrong shapes, labels or values
├── InvalidEvaluation        a file of an evaluation that is damaged or missing
├── TrainingDiverged         the loss is no number any more
└── DeviceLost               the accelerator failed or ran out of memory
"""

from typing import ClassVar


class TrainingError(Exception):
    """Base of every error of this room; its message is safe to show to a client."""

    code: ClassVar[str] = "training-error"


class InvalidDataset(TrainingError):
    """A path to train on is missing, damaged or of no layout that is known."""

    code = "invalid-dataset"


class InvalidSnapshot(InvalidDataset):
    """A snapshot's files are not what its manifest says."""

    code = "invalid-snapshot"


class UnfitData(InvalidDataset):
    """The data can be read, but nothing can be learnt or measured with them."""

    code = "unfit-data"


class InvalidConfig(TrainingError):
    """A knob that does not exist, or a value that it cannot take."""

    code = "invalid-config"


class InvalidRun(TrainingError):
    """A run's folder cannot be continued or read."""

    code = "invalid-run"


class InvalidEmbeddings(TrainingError):
    """Embeddings or labels have shapes or values that cannot be evaluated."""

    code = "invalid-embeddings"


class InvalidEvaluation(TrainingError):
    """A file that holds an evaluation, or what was searched in it, is damaged or missing."""

    code = "invalid-evaluation"


class TrainingDiverged(TrainingError):
    """The loss is no number any more."""

    code = "training-diverged"


class DeviceLost(TrainingError):
    """The accelerator failed or ran out of memory."""

    code = "device-lost"
