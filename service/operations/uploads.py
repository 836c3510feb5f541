"""The files that came with the requests for operations: kept until their operation ends."""

import contextlib
import shutil
import time
from pathlib import Path

from service.installation.installation import Installation
from service.operations.errors import OperationNotFound
from service.operations.folder import UPLOAD
from service.operations.records import get_operation
from service.storage.errors import DatabaseError
from service.storage.tables.operations import Operation

_STRAY_SECONDS = 24 * 3600.0


def keep_upload(installation: Installation, operation_id: str, upload: Path, name: str, *, may_move: bool) -> Path:
    """Put a file under a name into the folder of a new operation, as a copy or the file itself; return its path.

    A file that is moved must lie on the file system of the home folder.
    """
    kept = installation.settings.operations_dir / operation_id / UPLOAD / name
    kept.parent.mkdir(parents=True)
    if may_move:
        upload.rename(kept)
    else:
        shutil.copyfile(upload, kept)
    return kept


def remove_upload(installation: Installation, operation_id: str) -> None:
    """Remove the upload of an operation that has ended, packed and unpacked; idempotent."""
    folder = installation.settings.operations_dir / operation_id
    shutil.rmtree(folder / UPLOAD, ignore_errors=True)
    # The folder of a retrain also holds its run.
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove_unless_queued(installation: Installation, operation_id: str) -> None:
    """Remove the folder of an operation that was not created. A commit may succeed although its answer is lost."""
    if _may_exist(installation, operation_id):
        return
    shutil.rmtree(installation.settings.operations_dir / operation_id, ignore_errors=True)


def remove_leftovers(installation: Installation) -> None:
    """Remove what processes that were killed have left.

    These are uploads of operations that have ended, and folders of operations that were never queued.
    """
    operations_dir = installation.settings.operations_dir
    for folder in operations_dir.iterdir() if operations_dir.is_dir() else ():
        if time.time() - folder.stat().st_mtime > _STRAY_SECONDS:
            remove_unless_queued(installation, folder.name)
        if (folder / UPLOAD).is_dir() and _has_ended(installation, folder.name):
            remove_upload(installation, folder.name)


def _may_exist(installation: Installation, operation_id: str) -> bool:
    try:
        _read(installation, operation_id)
    except OperationNotFound:
        return False
    except DatabaseError:
        return True
    return True


def _has_ended(installation: Installation, operation_id: str) -> bool:
    try:
        return _read(installation, operation_id).finished_at is not None
    except (OperationNotFound, DatabaseError):
        return False


def _read(installation: Installation, operation_id: str) -> Operation:
    with installation.database.reading() as session:
        return get_operation(session, operation_id)
