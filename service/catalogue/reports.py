"""The result of an import, as a value and as a JSON file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from embedding.whole_files import write_whole
from service.catalogue.sources import RowError, first_reasons
from service.storage.database import now
from training.datasets.rows import LeftOut

OnProgress = Callable[[int, int], None]  # rows done, rows in total
OnErrors = Callable[[list[RowError]], None]  # receives the errors of some rows, all errors in turn

# All errors are counted; only the first are kept.
MAX_KEPT_ERRORS = 100_000


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do (`dry_run`).

    Each row is counted once: as added, updated, unchanged or failed.
    """

    layout: str
    dry_run: bool
    num_products_added: int = 0
    num_products_updated: int = 0
    num_images_added: int = 0
    num_images_updated: int = 0
    num_unchanged: int = 0
    num_failed: int = 0
    seconds: float = 0.0
    understood: str = ""  # one line that says what the source was understood as
    notes: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)  # files that are not part of the source
    errors: list[RowError] = field(default_factory=list)  # the first of the rows that failed
    file: Path | None = None  # the JSON file with these errors, if one was written

    @property
    def num_usable(self) -> int:
        """Number of changes that the source makes, plus its rows that change nothing."""
        changed = self.num_products_added + self.num_products_updated + self.num_images_added + self.num_images_updated
        return changed + self.num_unchanged

    def reasons(self) -> str:
        """Describe the first errors in one line."""
        return first_reasons(self.errors, self.num_failed)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        values = asdict(self)
        del values["file"]
        return {**values, "num_ignored": len(self.left_out)}


class ReportWithErrors(Protocol):
    """A report that counts the rows that failed."""

    num_failed: int
    errors: list[RowError]


def add_errors(report: ReportWithErrors, errors: list[RowError], on_error: OnErrors | None) -> None:
    """Count errors, keep the first ones, and hand all of them to `on_error`."""
    report.num_failed += len(errors)
    report.errors.extend(errors[: max(MAX_KEPT_ERRORS - len(report.errors), 0)])
    if errors and on_error is not None:
        on_error(errors)


class Report(Protocol):
    """A report that can be written to a JSON file."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of the JSON file."""


def write_report(report: Report, directory: Path, kind: str) -> Path:
    """Write a report to a new JSON file named after `kind` and the time; return the path."""
    path = directory / f"{kind}-{now():%Y%m%dT%H%M%S%f}.json"
    # json.dumps escapes non-ASCII characters: a path in a message may contain bytes that are not valid UTF-8.
    write_whole(path, (json.dumps(report.to_json(), indent=2) + "\n").encode())
    return path
