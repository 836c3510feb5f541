"""Saved states: everything that influences the next step, so that a resumed run equals an uninterrupted one.

A state is one file, written under a temporary name, flushed and renamed; the previous one is removed only afterwards.
The last complete state therefore survives any failure, including a full disk.
"""

import errno
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from training.errors import InvalidRun

_NAME = re.compile(r"step-(\d{9})\.pt")
_VERSION = 1
_LITTLE_BYTES = 16 * 2**20


def save_state(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state of `step`; raises OSError if it cannot be written and leaves earlier states untouched."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{step:09d}.pt"
    aside = directory / f".{path.name}"
    try:
        with aside.open("wb") as file:
            torch.save({"version": _VERSION, "step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, RuntimeError) as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        # torch reports a short write as a RuntimeError without its cause.
        if shutil.disk_usage(directory).free < _LITTLE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise OSError(f"the state {path} cannot be written: {error}") from error
    for older in _states(directory)[:-1]:
        older.unlink()
    return path


def latest_state(directory: Path) -> Path | None:
    """Return the newest complete state, or None."""
    states = _states(directory)
    return states[-1] if states else None


def load_state(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU; raises InvalidRun if it is damaged or of another version."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidRun(f"the state {path} cannot be read: {reason}; remove it and start the run again") from error
    if state.get("version") != _VERSION:
        raise InvalidRun(f"{path} was written by another version of Akin; start the run again in another folder")
    return state


def _states(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
