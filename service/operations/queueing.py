"""Queue a retrain or a build, for HTTP and the command line."""

import shutil
import time
from pathlib import Path

from embedding.artifact import sha256_of_file
from service.catalogue.archives import check
from service.catalogue.errors import InvalidArchive
from service.catalogue.unpacking import max_unpacked_bytes
from service.installation.installation import Installation
from service.operations.errors import OperationNotFound
from service.operations.folder import ARCHIVE
from service.operations.kinds import BUILD, RETRAIN
from service.operations.records import create_operation, get_operation, new_operation_id
from service.operations.requests import BuildRequest, RetrainRequest
from service.storage.errors import DatabaseError
from service.storage.tables.operations import Operation

_STRAY_SECONDS = 24 * 3600.0


def request_build(
    installation: Installation, request: BuildRequest, *, actor: str, idempotency_key: str | None = None
) -> Operation:
    """Queue the build of a release; return the operation, or the earlier one of the same request.

    Raises OperationActive and IdempotencyKeyReused.
    """
    values = request.model_dump(mode="json")
    return create_operation(installation.database, BUILD, values, actor=actor, idempotency_key=idempotency_key)[0]


def request_retrain(
    installation: Installation,
    request: RetrainRequest,
    archive: Path | None = None,
    *,
    actor: str,
    idempotency_key: str | None = None,
    may_move_archive: bool = False,
) -> Operation:
    """Queue a retrain; return the operation, or the earlier one of the same request and archive.

    The operation keeps the archive of new labelled images: as a copy, or the file itself with `may_move_archive`,
    which must then lie on the file system of the home folder. Raises InvalidArchive, OperationActive and
    IdempotencyKeyReused.
    """
    values = request.model_dump(mode="json")
    if archive is None:
        return create_operation(installation.database, RETRAIN, values, actor=actor, idempotency_key=idempotency_key)[0]
    if not archive.is_file():
        raise InvalidArchive(f"{archive} is not a file; give a zip with a folder per class")
    check(archive, max_bytes=max_unpacked_bytes(installation.settings))
    operation_id = new_operation_id(RETRAIN)
    folder = installation.settings.operations_dir / operation_id
    folder.mkdir(parents=True)
    try:
        if may_move_archive:
            archive.rename(folder / ARCHIVE)
        else:
            shutil.copyfile(archive, folder / ARCHIVE)
        queued, _ = create_operation(
            installation.database,
            RETRAIN,
            # Two requests are the same only if their archives are.
            {**values, "archive": sha256_of_file(folder / ARCHIVE)},
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
    """Remove folders without an operation, left by a process that was killed before it queued one."""
    operations_dir = installation.settings.operations_dir
    for folder in operations_dir.iterdir() if operations_dir.is_dir() else ():
        if time.time() - folder.stat().st_mtime > _STRAY_SECONDS and not _may_exist(installation, folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _may_exist(installation: Installation, operation_id: str) -> bool:
    """Return whether an operation exists or may exist: a commit may succeed although its answer is lost."""
    try:
        with installation.database.reading() as session:
            get_operation(session, operation_id)
    except OperationNotFound:
        return False
    except DatabaseError:
        return True
    return True
