"""Import what came with a request: products or labels of an upload, and the labelled images of a retrain.

Rows are applied in chunks, each in one transaction. A step that was interrupted begins again with the first row: rows
that the interrupted try has applied are counted as unchanged.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import structlog

from service.catalogue.errors import InvalidImportSource
from service.catalogue.importing import import_catalogue
from service.catalogue.reports import ImportReport
from service.catalogue.sources import ImportSource, RowError, read_import_source
from service.catalogue.unpacking import unpack_upload
from service.errors import StorageFull, is_disk_full
from service.labels.applying import LabelReport, apply_labels
from service.labels.errors import InvalidLabels
from service.labels.intake import attribution
from service.labels.sources import LabelSource, read_label_source
from service.operations.folder import ARCHIVE, UNPACKED, UPLOAD
from service.operations.queueing import ZIP
from service.operations.requests import QueuedImport
from service.operations.row_errors import MAX_LISTED, RowProblem, record_row_errors, storable
from service.storage.errors import DatabaseUnavailable, MediaError
from service.storage.tables.operations import FAILED
from service.worker.run import Ended, Facts, Run

# So many failed rows, and files that were left out, stand in the operation's result; all are listed.
_NUM_FIRST = 10

log = structlog.get_logger(__name__)


_Report = ImportReport | LabelReport


def unpack(run: Run) -> Facts:
    """Unpack an uploaded archive into the operation's folder; a table stays as it is."""
    request = _request_of(run)
    if request.file.endswith(ZIP):
        _unpack(run, run.folder / UPLOAD / request.file)
    return {}


def import_product_rows(run: Run) -> Facts:
    """Import the products and images of an upload."""
    request, installation = _request_of(run), run.installation
    failed: list[RowProblem] = []
    with _without_locations():
        report = import_catalogue(
            _products_of(run, request),
            installation.database,
            installation.media_store,
            limits=installation.limits,
            dry_run=request.dry_run,
            actor=run.created_by,
            on_progress=partial(run.report, "Importing"),
            on_error=partial(_collect, failed),
        )
    counts = _record(run, report, failed)
    if report.num_usable == 0:
        raise InvalidImportSource(f"no row of the {report.layout} could be imported: {_reasons(report)}")
    return {"report": counts}


def import_label_rows(run: Run) -> Facts:
    """Apply the labels of an upload."""
    request = _request_of(run)
    source = (
        read_label_source(run.folder / UNPACKED, layout=request.layout)
        if request.file.endswith(ZIP)
        else read_label_source(run.folder / UPLOAD / request.file, has_images=False)
    )
    labelled_by, source_name = attribution(request.labelled_by, request.source, sender=run.created_by)
    return {"report": _apply(run, source, labelled_by, source_name, dry_run=request.dry_run)}


def import_labels_of_retrain(run: Run) -> Facts:
    """Add the labelled images of a retrain's archive, and return the counts."""
    _unpack(run, run.folder / ARCHIVE)
    source = read_label_source(run.folder / UNPACKED)
    return _apply(run, source, run.created_by, f"archive of {run.operation_id}")


def _request_of(run: Run) -> QueuedImport:
    return QueuedImport.model_validate(dict(run.request))


def _unpack(run: Run, archive: Path) -> None:
    unpacked = run.folder / UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    with _without_locations():
        unpack_upload(archive, unpacked, run.installation.settings)


def _products_of(run: Run, request: QueuedImport) -> ImportSource:
    # A table is alone in the folder of uploads, where it has the name of a catalogue's table.
    folder = UNPACKED if request.file.endswith(ZIP) else UPLOAD
    return read_import_source(run.folder / folder, is_trusted=False, layout=request.layout)


def _apply(run: Run, source: LabelSource, labelled_by: str, source_name: str, *, dry_run: bool = False) -> Facts:
    failed: list[RowProblem] = []
    with _without_locations():
        report: LabelReport = apply_labels(
            run.installation,
            source,
            actor=labelled_by,
            source_name=source_name,
            dry_run=dry_run,
            on_progress=partial(run.report, "Importing labels"),
            on_error=partial(_collect, failed),
        )
    counts = _record(run, report, failed)
    if report.num_usable == 0:
        raise InvalidLabels(f"no row of the {report.layout} could be used: {_reasons(report)}")
    return counts


def _collect(failed: list[RowProblem], errors: list[RowError]) -> None:
    """Add errors to those that are listed, as long as there is room."""
    room = MAX_LISTED - len(failed)
    failed.extend(RowProblem("failed", error.location, error.message) for error in errors[:room])


def _record(run: Run, report: _Report, failed: list[RowProblem]) -> Facts:
    """List the rows that failed and the files that were left out; return the report with the first of each."""
    # Those that may be images first.
    left_out = sorted(report.left_out, key=lambda item: not item.is_failure)
    problems = chain(failed, (RowProblem("left-out", item.location, item.reason) for item in left_out))
    record_row_errors(
        run.installation.database,
        run.operation_id,
        run.worker_id,
        problems,
        num_failed=report.num_failed,
        num_left_out=len(left_out),
        num_images_left_out=sum(item.is_failure for item in left_out),
    )
    first = replace(report, errors=report.errors[:_NUM_FIRST], left_out=left_out[:_NUM_FIRST])
    shown = first.to_json()
    shown["num_ignored"] += len(left_out) - len(first.left_out)
    return {**_storable_facts(shown), "num_failed": report.num_failed, "num_left_out": len(left_out)}


def _storable_facts(value: Any) -> Any:
    """Return facts whose texts every database stores."""
    if isinstance(value, dict):
        return {name: _storable_facts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable_facts(inner) for inner in value]
    return storable(value) if isinstance(value, str) else value


def _reasons(report: _Report) -> str:
    return storable(report.reasons()) or "it has no rows"


@contextmanager
def _without_locations() -> Iterator[None]:
    """Replace errors of the image store and of the disk: who may import is not told where these are."""
    try:
        yield
    except DatabaseUnavailable:
        raise
    except MediaError as error:
        log.error("media_unavailable", reason=str(error))
        detail = "images cannot be stored at present (the worker's log has the reason); send the upload again later"
        raise Ended(FAILED, error.code, detail) from error
    except (OSError, StorageFull) as error:
        if not is_disk_full(error) and not isinstance(error, StorageFull):
            raise
        log.error("storage_full", reason=str(error))
        raise StorageFull(
            "the disk is full; rows that were already written remain: free space, and send the upload again"
        ) from error
