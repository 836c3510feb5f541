"""The kinds of operations."""

from typing import Final, Literal, get_args

RETRAIN: Final = "retrain"
BUILD: Final = "build"

Kind = Literal["retrain", "build"]
KINDS: tuple[Kind, ...] = get_args(Kind)
