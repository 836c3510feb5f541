"""Queue a retrain, a build or an import, for HTTP and the command line."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embedding.artifact import sha256_of_file
from service.catalogue.archives import check
from service.catalogue.errors import InvalidArchive
from service.catalogue.unpacking import max_unpacked_bytes
from service.installation.installation import Installation
from service.operations.folder import ARCHIVE
from service.operations.kinds import BUILD, RETRAIN, Kind
from service.operations.records import create_operation, new_operation_id
from service.operations.requests import BuildRequest, ImportRequest, RetrainRequest
from service.operations.uploads import keep_upload, remove_unless_queued
from service.storage.tables.operations import Operation

ZIP = ".zip"


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
    return _queue_with_upload(
        installation,
        RETRAIN,
        lambda digest: {**values, "archive": digest},
        archive,
        Path(ARCHIVE).name,
        actor=actor,
        idempotency_key=idempotency_key,
        may_move=may_move_archive,
    )


def request_import(
    installation: Installation,
    request: ImportRequest,
    upload: Path,
    *,
    actor: str,
    idempotency_key: str | None = None,
    may_move_upload: bool = False,
) -> Operation:
    """Queue the import of a zip archive, or of a table, by its extension; return the operation.

    The operation keeps the upload as `request_retrain` does. Raises InvalidArchive, QueueFull and IdempotencyKeyReused.
    """
    if upload.suffix == ZIP:
        check(upload, max_bytes=max_unpacked_bytes(installation.settings))
    name = f"{request.kind}{upload.suffix}"
    values = {**request.model_dump(mode="json"), "file": name}
    return _queue_with_upload(
        installation,
        request.operation_kind,
        lambda digest: {**values, "sha256": digest},
        upload,
        name,
        actor=actor,
        idempotency_key=idempotency_key,
        may_move=may_move_upload,
    )


def _queue_with_upload(
    installation: Installation,
    kind: Kind,
    request_of: Callable[[str], Mapping[str, Any]],
    upload: Path,
    name: str,
    *,
    actor: str,
    idempotency_key: str | None,
    may_move: bool,
) -> Operation:
    """Store an upload and queue its operation.

    `request_of` makes the request of the upload's digest: two requests are the same only if their uploads are.
    """
    operation_id = new_operation_id(kind)
    try:
        kept = keep_upload(installation, operation_id, upload, name, may_move=may_move)
        queued, _ = create_operation(
            installation.database,
            kind,
            request_of(sha256_of_file(kept)),
            actor=actor,
            idempotency_key=idempotency_key,
            operation_id=operation_id,
        )
    except BaseException:
        remove_unless_queued(installation, operation_id)
        raise
    if queued.id != operation_id:
        remove_unless_queued(installation, operation_id)
    return queued
