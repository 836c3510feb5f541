"""Asking for a retrain with an archive of new labelled images: what the route and `akin retrain` share."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedding.artifact import sha256_of_file
from service.catalogue.archives import check
from service.catalogue.errors import InvalidArchive
from service.catalogue.unpacking import max_unpacked_bytes
from service.installation.installation import Installation
from service.installation.processes import WORKER, living_processes
from service.operations.errors import OperationNotFound
from service.operations.folder import ARCHIVE
from service.operations.records import create_operation, get_operation, new_operation_id
from service.operations.requests import RETRAIN, RetrainRequest
from service.storage.errors import DatabaseError
from service.storage.tables.operations import Operation

_STRAY_SECONDS = 24 * 3600.0


def ask_for_retrain(installation: Installation, request: RetrainRequest, archive: Path | None, *, actor: str) -> str:
    """Queue a retrain, with a copy of an archive where one is given; return the operation's id.

    Raises InvalidArchive, and OperationActive when one is under way.
    """
    asked = request.model_dump(mode="json")
    if archive is None:
        return create_operation(installation.database, RETRAIN, asked, actor=actor)[0].id
    if not archive.is_file():
        raise InvalidArchive(f"{archive} is not a file; give a zip of a folder per class")
    check(archive, max_bytes=max_unpacked_bytes(installation.settings))
    # A copy: whoever asked may delete theirs.
    aside = installation.settings.home / "uploads" / f"{new_operation_id('upload')}.zip"
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(archive, aside)
        return queue_with_archive(installation, aside, asked, actor=actor, idempotency_key=None).id
    finally:
        aside.unlink(missing_ok=True)


def queue_with_archive(
    installation: Installation, archive: Path, asked: Mapping[str, Any], *, actor: str, idempotency_key: str | None
) -> Operation:
    """Move a checked archive into the folder of a new operation and queue that; return it, or that of an equal request.

    What makes a request equal is the archive's content too.
    """
    operation_id = new_operation_id(RETRAIN)
    folder = installation.settings.operations_dir / operation_id
    values = {**asked, "archive": sha256_of_file(archive)}
    folder.mkdir(parents=True)
    try:
        archive.rename(folder / ARCHIVE)
        queued, _ = create_operation(
            installation.database,
            RETRAIN,
            values,
            actor=actor,
            idempotency_key=idempotency_key,
            operation_id=operation_id,
        )
    except BaseException:
        if not _may_exist(installation, operation_id):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if queued.id != operation_id:
        shutil.rmtree(folder, ignore_errors=True)
    return queued


def remove_stray_folders(installation: Installation) -> None:
    """Remove folders of operations that were never queued: of a server that was killed between the two."""
    operations_dir = installation.settings.operations_dir
    for folder in operations_dir.iterdir() if operations_dir.is_dir() else ():
        if time.time() - folder.stat().st_mtime > _STRAY_SECONDS and not _may_exist(installation, folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def has_worker(installation: Installation) -> bool:
    """Tell whether a worker was heard of lately."""
    with installation.database.reading() as session:
        return bool(living_processes(session, WORKER, within_seconds=30.0))


def _may_exist(installation: Installation, operation_id: str) -> bool:
    """Tell whether an operation is there; a commit whose answer was lost may have happened."""
    try:
        with installation.database.reading() as session:
            get_operation(session, operation_id)
    except OperationNotFound:
        return False
    except DatabaseError:
        return True
    return True
