"""The kinds of operations."""

from typing import Final, Literal, get_args

RETRAIN: Final = "retrain"
BUILD: Final = "build"
IMPORT: Final = "import"
LABELS: Final = "labels"

Kind = Literal["retrain", "build", "import", "labels"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Of these, one at a time is queued or running; of the others, any number up to a limit.
SINGLE_KINDS: tuple[Kind, ...] = (RETRAIN, BUILD)
# These import what a client has uploaded; a key that may write the catalogue may see and cancel them.
IMPORT_KINDS: tuple[Kind, ...] = (IMPORT, LABELS)
