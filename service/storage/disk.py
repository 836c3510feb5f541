"""The disk of the home folder: its free space, and whether it can be written to."""

import os
import shutil
import threading
import time
from pathlib import Path

_LOOK_SECONDS = 2.0
# Reading the state of a disk takes no time unless the disk hangs, as one mounted from another machine may.
_SILENT_SECONDS = 10.0


class DiskWatch:
    """Reads the state of the disk every two seconds in a thread of its own, so that callers never wait for the disk."""

    def __init__(self, home: Path, *, min_free_bytes: int) -> None:
        self._home = home
        self._min_free_bytes = min_free_bytes
        self._is_ending = threading.Event()
        self._problem: str | None = None
        self._free_bytes: int | None = None
        self._looked_at = time.monotonic()
        self._look()
        self._thread = threading.Thread(target=self._watch, name="disk", daemon=True)
        self._thread.start()

    @property
    def free_bytes(self) -> int | None:
        """Free space of the disk; None if it could not be read or the disk does not answer."""
        return None if self._silent_seconds > _SILENT_SECONDS else self._free_bytes

    def problem(self) -> str | None:
        """Return what is wrong with the disk, safe to show to clients; None if nothing is."""
        if self._silent_seconds > _SILENT_SECONDS:
            return f"the disk of the home folder has not answered for {self._silent_seconds:.0f} s"
        return self._problem

    def close(self) -> None:
        """End the thread, without waiting for a disk that does not answer."""
        self._is_ending.set()
        self._thread.join(timeout=1.0)

    @property
    def _silent_seconds(self) -> float:
        return time.monotonic() - self._looked_at

    def _watch(self) -> None:
        while not self._is_ending.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            self._free_bytes = shutil.disk_usage(self._home).free
            is_writable = os.access(self._home, os.W_OK | os.X_OK)
        except OSError as error:
            self._free_bytes = None
            self._problem = f"the home folder cannot be read: {error.strerror}"
        else:
            if not is_writable:
                self._problem = "the home folder cannot be written to"
            elif self._free_bytes < self._min_free_bytes:
                self._problem = f"the disk of the home folder has less than {self._min_free_bytes:,} bytes free"
            else:
                self._problem = None
        self._looked_at = time.monotonic()
