"""The disk under the home folder: whether it can be written and how much space is free."""

import os
import shutil
import threading
import time
from pathlib import Path

_LOOK_SECONDS = 2.0
# A look takes no time unless the disk, of another machine perhaps, does not answer.
_SILENT_SECONDS = 10.0


class DiskWatch:
    """Looks every moment how the disk is, in a thread of its own: asking it never waits for the disk."""

    def __init__(self, home: Path, *, min_free_bytes: int) -> None:
        self._home = home
        self._min_free_bytes = min_free_bytes
        self._is_ending = threading.Event()
        self._problem: str | None = None
        self._looked_at = time.monotonic()
        self._look()
        self._thread = threading.Thread(target=self._watch, name="disk", daemon=True)
        self._thread.start()

    def problem(self) -> str | None:
        """Say what is wrong with the disk, in words that may be shown to anybody; None where nothing is."""
        silent_seconds = time.monotonic() - self._looked_at
        if silent_seconds > _SILENT_SECONDS:
            return f"the disk of the home folder has not answered for {silent_seconds:.0f} s"
        return self._problem

    def close(self) -> None:
        """End the watching; a disk that does not answer is not waited for."""
        self._is_ending.set()
        self._thread.join(timeout=1.0)

    def _watch(self) -> None:
        while not self._is_ending.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            free_bytes = shutil.disk_usage(self._home).free
            is_writable = os.access(self._home, os.W_OK | os.X_OK)
        except OSError as error:
            self._problem = f"the home folder cannot be looked at: {error.strerror}"
        else:
            if not is_writable:
                self._problem = "the home folder cannot be written to"
            elif free_bytes < self._min_free_bytes:
                self._problem = f"the disk of the home folder has less than {self._min_free_bytes:,} bytes free"
            else:
                self._problem = None
        self._looked_at = time.monotonic()
