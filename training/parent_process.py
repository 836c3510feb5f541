"""Ending together with the process that started this one, where the system offers it (Linux)."""

import ctypes
import os
import signal
import sys

# From <linux/prctl.h>.
_SET_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36


class ParentGone(Exception):
    """The process that started this one had ended before it could be asked for."""


def end_with_parent(parent: int | None = None) -> None:
    """Let SIGTERM come to this process when the thread that started it ends; exec keeps that.

    `parent` is the id of the process that started this one, where it is known: raises ParentGone if it is gone
    already. Without it, an orphan is known by its new parent, the first process of the machine or container.
    """
    before = os.getppid() if parent is None else parent
    _control(_SET_DEATH_SIGNAL, signal.SIGTERM)
    # Asked after the signal was set: what ends later sends it, what ended before shows here.
    now = os.getppid()
    if now != before or (parent is None and now == 1):
        raise ParentGone(f"the process {before} that started this one has ended")


def adopt_orphans() -> None:
    """Become the parent of whatever descendants lose theirs."""
    _control(_SET_CHILD_SUBREAPER, 1)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        # Names of the process's own symbols, so that no library has to be found.
        ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)
