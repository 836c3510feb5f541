"""Unpack uploaded archives within the limits of the settings, into temporary folders below the home folder."""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedding.whole_files import write_whole
from service.catalogue.archives import REASON_NESTED, unpack
from service.installation.settings import Settings
from training.datasets.rows import LeftOut

# No request takes this long: an older folder was left by a process that was killed.
_STALE_SECONDS = 24 * 3600.0


def max_unpacked_bytes(settings: Settings) -> int:
    """Return how many bytes an archive may unpack to; tables compress well, images hardly at all."""
    return 4 * settings.max_upload_bytes


@contextmanager
def unpacked(archive: Path, settings: Settings) -> Iterator[Path]:
    """Unpack an archive into a temporary folder for the duration of the block. Raises InvalidArchive."""
    folder = new_upload_folder(settings)
    try:
        yield unpack_upload(archive, folder / "unpacked", settings)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack_upload(archive: Path, into: Path, settings: Settings) -> Path:
    """Unpack an archive into the new folder `into`, within the limits of the settings; return the folder.

    Raises InvalidArchive.
    """
    result = unpack(archive, into, max_bytes=max_unpacked_bytes(settings), max_image_bytes=settings.max_image_bytes)
    # In a file, since another process may read the folder.
    write_whole(_list_of_left_out(into), json.dumps(result.left_out).encode())
    return into


def left_out_of_archive(folder: Path) -> tuple[LeftOut, ...]:
    """Return what was not unpacked into a folder of `unpack_upload`; nothing for another folder."""
    path = _list_of_left_out(folder)
    entries = json.loads(path.read_bytes()) if path.is_file() else ()
    return tuple(LeftOut(location, reason, reason == REASON_NESTED) for location, reason in entries)


def _list_of_left_out(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.left-out.json")


def new_upload_folder(settings: Settings) -> Path:
    """Create a temporary folder for one upload, and remove stale folders of processes that were killed."""
    # Under the home folder: /tmp is often small, or held in memory.
    root = settings.home / "uploads"
    root.mkdir(parents=True, exist_ok=True)
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="upload-", dir=root))
