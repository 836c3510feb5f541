"""Archives of an installation: unpacked within its limits, into folders on the disk of its images."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.catalogue.archives import unpack
from service.installation.settings import Settings

# A folder that a killed process left; no request takes so long.
_STALE_SECONDS = 24 * 3600.0


def max_unpacked_bytes(settings: Settings) -> int:
    """Return how much an archive may unpack to: tables shrink well, and images do not."""
    return 4 * settings.max_upload_bytes


@contextmanager
def unpacked_here(archive: Path, settings: Settings) -> Iterator[Path]:
    """Unpack an archive that lies on this machine already; the folder is removed at the end. Raises InvalidArchive."""
    # A dry run makes no home folder.
    folder = new_upload_folder(settings.home / "uploads") if settings.home.exists() else Path(tempfile.mkdtemp())
    try:
        yield unpack_upload(archive, folder / "unpacked", settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack_upload(archive: Path, into: Path, settings: Settings) -> Path:
    """Unpack an archive within the limits of the settings; return the folder. Raises InvalidArchive."""
    unpack(archive, into, max_bytes=max_unpacked_bytes(settings), max_image_bytes=settings.max_image_bytes)
    return into


def new_upload_folder(root: Path) -> Path:
    """Make an empty folder below `root`, and remove folders that killed processes left there a day ago."""
    root.mkdir(parents=True, exist_ok=True)
    # What processes that were killed left behind goes first.
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    # On the disk of the images, not in /tmp, which is often small and held in memory.
    return Path(tempfile.mkdtemp(prefix="upload-", dir=root))
