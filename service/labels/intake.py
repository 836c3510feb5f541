"""Import labels from a path or an upload: open the source, apply its rows, write a report."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from service.catalogue.reports import OnProgress, write_report
from service.catalogue.unpacking import unpacked
from service.installation.installation import Installation
from service.installation.settings import Settings
from service.labels.applying import LabelReport, apply_labels
from service.labels.errors import InvalidLabels
from service.labels.sources import LabelSource, read_label_source, single_label
from training.datasets.folders import Layout

# Reads labels; their files exist for the duration of the block.
OpenLabels = Callable[[Settings], AbstractContextManager[LabelSource]]


def import_labels(
    installation: Installation,
    open_labels: OpenLabels,
    *,
    actor: str,
    source_name: str,
    is_upload: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> LabelReport:
    """Read and apply labels (see `apply_labels`); write the report to a JSON file if there are errors.

    An upload (`is_upload`) is refused if none of its rows can be used.

    Raises InvalidArchive, InvalidLabels, MediaError, StorageFull.
    """
    with open_labels(installation.settings) as source:
        report = apply_labels(
            installation, source, actor=actor, source_name=source_name, dry_run=dry_run, on_progress=on_progress
        )
    if is_upload and report.num_usable == 0:
        reasons = report.reasons() or "it has no rows"
        raise InvalidLabels(f"no row of the {report.layout} could be used: {reasons}")
    if (report.errors or report.left_out) and not dry_run:
        report.file = write_report(report, installation.settings.reports_dir, "labels")
    return report


def attribution(labelled_by: str | None, source: str | None, *, sender: str) -> tuple[str, str]:
    """Return author and source of labels that the key `sender` has sent, by default the key and HTTP.

    The key is recorded even if the client names somebody else.
    """
    author, source = labelled_by or sender, source or "http"
    return author, source if author == sender else f"{source} (key {sender})"


def set_label(
    installation: Installation, image_id: str, label: str | None, *, actor: str, source_name: str
) -> LabelReport:
    """Set the label of one image, or restore the label of its product if `label` is None. Raises InvalidLabels."""
    report = apply_labels(installation, single_label(image_id, label), actor=actor, source_name=source_name)
    if report.errors:
        raise InvalidLabels(report.errors[0].message)
    return report


def without_unpacking(read: Callable[[], LabelSource]) -> OpenLabels:
    """Return an opener for labels that are not in an archive."""
    return lambda _settings: nullcontext(read())


@contextmanager
def open_archive(archive: Path, settings: Settings, *, layout: Layout = "auto") -> Iterator[LabelSource]:
    """Unpack and read an untrusted zip archive."""
    with unpacked(archive, settings) as folder:
        yield read_label_source(folder, layout=layout)


@contextmanager
def open_path(path: Path, settings: Settings, *, layout: Layout = "auto") -> Iterator[LabelSource]:
    """Read a table, a folder or a zip archive of this machine."""
    if path.is_file() and path.suffix.lower() == ".zip":
        with open_archive(path, settings, layout=layout) as source:
            yield source
    else:
        yield read_label_source(path, is_trusted=True, layout=layout)
