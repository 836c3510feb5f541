"""Asking for work from this machine: what `akin retrain` does."""

import shutil
from pathlib import Path

from embedding.artifact import sha256_of_file
from service.archives import check
from service.errors import InvalidArchive
from service.installation import Installation
from service.operations.folder import ARCHIVE
from service.operations.records import create_operation, new_operation_id
from service.operations.requests import RETRAIN, RetrainRequest
from service.processes import WORKER, living_processes


def ask_for_retrain(installation: Installation, request: RetrainRequest, archive: Path | None, *, actor: str) -> str:
    """Queue a retrain, with an archive of new labelled pictures where one is given; return the operation's id.

    Raises InvalidArchive, and OperationActive when one is under way.
    """
    asked = request.model_dump(mode="json")
    operation_id = new_operation_id(RETRAIN)
    folder = installation.settings.operations_dir / operation_id
    try:
        if archive is not None:
            if not archive.is_file():
                raise InvalidArchive(f"{archive} is not a file; give a zip of a folder per class")
            check(archive, max_bytes=4 * installation.settings.max_upload_bytes)
            folder.mkdir(parents=True)
            # A copy: whoever asked may delete theirs.
            shutil.copyfile(archive, folder / ARCHIVE)
            asked["archive"] = sha256_of_file(folder / ARCHIVE)
        queued, _ = create_operation(installation.database, RETRAIN, asked, actor=actor, operation_id=operation_id)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return queued.id


def has_worker(installation: Installation) -> bool:
    """Tell whether a worker was heard of lately."""
    with installation.database.reading() as session:
        return bool(living_processes(session, WORKER, within_seconds=30.0))
