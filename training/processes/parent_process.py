"""End a process together with its parent (Linux; does nothing elsewhere)."""

import ctypes
import os
import signal
import sys

# From <linux/prctl.h>.
_SET_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36


class ParentGone(Exception):
    """The parent process had already ended."""


def end_with_parent(parent: int | None = None) -> None:
    """Request SIGTERM for this process when the thread that started it ends; survives exec.

    Raises ParentGone if the parent has already ended: if its id is no longer `parent`, or, without `parent`, if the
    new parent is process 1.
    """
    before = os.getppid() if parent is None else parent
    request_signal_at_death()
    # Checked after the request: a parent that ends later sends the signal, one that ended before shows here.
    now = os.getppid()
    if now != before or (parent is None and now == 1):
        raise ParentGone(f"the process {before} that started this one has ended")


def request_signal_at_death() -> None:
    """Request SIGTERM for this process when the thread that started it ends; survives exec."""
    _control(_SET_DEATH_SIGNAL, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants."""
    _control(_SET_CHILD_SUBREAPER, 1)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        # None: symbols of this process, so that no library has to be located.
        ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)
